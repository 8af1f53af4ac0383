//! `apply`: one layer blob onto a directory.

use std::{os::fd::AsFd, path::Path};

use layerkit::{
    ApplyLayerOptions, Error, ErrorKind, Image, ImageRef, IoContext, LayerInput, MediaType, Result,
    apply_layer, erofs::ErofsLayerOptions,
};
use serde_json::json;

use super::watched;
use crate::{
    args::{self, Apply, Global, TreeFormat},
    output::{Outcome, descriptor_json, descriptor_text},
};

pub(super) fn apply(args: &Apply, global: &Global) -> Result<Outcome> {
    if matches!(args.format, TreeFormat::Flat) && !args.parents.is_empty() {
        let message = "--parent goes with --format overlay or erofs: a flat tree holds its parents";
        return Err(Error::new(ErrorKind::InvalidArgument, message));
    }
    let media_type = args.media_type.as_deref().map(str::parse).transpose()?;
    let input = open(&args.layer, media_type)?;
    let options = ApplyLayerOptions::default()
        .format(args.format.into())
        .parents(args.parents.clone())
        .erofs(erofs_options(&args.erofs, args.format)?);
    watched("apply", global, None, |watch| {
        let applied = apply_layer(input, &args.dest, &options, watch)?;
        let mut object = descriptor_json(&applied.layer);
        object["entries"] = json!(applied.entries);
        object["bytes"] = json!(applied.bytes);
        Ok(Outcome::new(object, descriptor_text(&applied.layer)))
    })
}

/// How the arguments want EROFS images.
pub(super) fn erofs_options(args: &args::ErofsLayer, format: TreeFormat) -> Result<ErofsLayerOptions> {
    if format != TreeFormat::Erofs && args.is_asked_for() {
        let message = "--tar-index and --verity go with --format erofs";
        return Err(Error::new(ErrorKind::InvalidArgument, message));
    }
    Ok(ErofsLayerOptions::default().tar_index(args.tar_index).verity(args.verity))
}

/// A blob file, `-` for standard input, or `IMAGE#N`. A file whose name only looks like the last is a file.
pub(super) fn open(layer: &str, media_type: Option<MediaType>) -> Result<LayerInput> {
    if layer == "-" {
        return Ok(LayerInput::new(Box::new(standard_input()?), media_type));
    }
    if !Path::new(layer).exists()
        && let Some((image, number)) = layer.rsplit_once('#')
        && let Ok(number) = number.parse::<usize>()
    {
        let input = LayerInput::of_image(&Image::open(&image.parse::<ImageRef>()?)?, number)?;
        return Ok(match media_type {
            Some(media_type) => input.media_type(media_type),
            None => input,
        });
    }
    LayerInput::file(Path::new(layer), media_type)
}

/// Standard input without a buffer between. A pipe is made to hold more, so that who writes into it and we wait
/// less for each other.
fn standard_input() -> Result<std::fs::File> {
    let input = std::io::stdin().as_fd().try_clone_to_owned().during("duplicate standard input")?;
    // Not a pipe, or a limit: then it works as it is.
    let _ = rustix::pipe::fcntl_setpipe_size(&input, 1 << 18);
    Ok(input.into())
}
