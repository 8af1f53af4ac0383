//! `unpack` and `inspect`: whole images.

use std::fmt::Write;

use layerkit::{Error, ErrorKind, Format, Image, ImageRef, Result, UnpackOptions};
use serde_json::json;

use super::{apply::erofs_options, watched};
use crate::{
    args::{Global, TreeFormat, Unpack},
    output::{Outcome, human_bytes},
};

impl From<TreeFormat> for Format {
    fn from(format: TreeFormat) -> Self {
        match format {
            TreeFormat::Overlay => Format::Overlay,
            TreeFormat::Erofs => Format::Erofs,
            TreeFormat::Flat => Format::Flat,
        }
    }
}

pub(super) fn unpack(args: &Unpack, global: &Global) -> Result<Outcome> {
    let image = Image::open(&args.image.parse::<ImageRef>()?)?;
    if args.merge && args.format != TreeFormat::Erofs {
        return Err(Error::new(ErrorKind::InvalidArgument, "--merge goes with --format erofs"));
    }
    let erofs = erofs_options(&args.erofs, args.format)?;
    let mut options = UnpackOptions::default().format(args.format.into()).erofs(erofs).merge(args.merge);
    options.jobs = global.jobs;
    let total = image.layers().iter().map(|l| l.size).sum();
    watched("unpack", global, Some(total), |watch| {
        let stack = layerkit::unpack(&image, &args.dest, &options, watch)?;
        let layers = stack.layers.iter().map(|l| {
            let (path, digest) = (l.path.to_string_lossy(), l.digest.as_str());
            let mut layer =
                json!({ "path": path, "diff_id": l.diff_id.as_str(), "digest": digest, "size": l.size });
            if let Some(root_hash) = &l.verity {
                layer["verity"] = json!(root_hash);
            }
            layer
        });
        let object = json!({
            "dest": args.dest.to_string_lossy(),
            "format": match args.format {
                TreeFormat::Overlay => "overlay",
                TreeFormat::Erofs => "erofs",
                TreeFormat::Flat => "flat",
            },
            "layers": layers.collect::<Vec<_>>(),
        });
        let mut text = String::new();
        for layer in &stack.layers {
            let _ =
                writeln!(text, "{}  {}  {}", layer.diff_id, human_bytes(layer.size), layer.path.display());
        }
        Ok(Outcome::new(object, text))
    })
}

pub(super) fn inspect(image: &str) -> Result<Outcome> {
    let image = Image::open(&image.parse::<ImageRef>()?)?;
    let (os, architecture) = (image.config().os().to_string(), image.config().architecture().to_string());
    let manifest = image.manifest().map(|d| d.digest().to_string());
    let layers = image.layers().iter().map(|l| {
        json!({
            "mediaType": l.media_type.as_str(),
            "digest": l.digest.as_ref().map(|d| d.as_str()),
            "size": l.size,
            "diff_id": l.diff_id.as_str(),
        })
    });
    let object = json!({
        "image": image.name(),
        "manifest": manifest,
        "tags": image.repo_tags(),
        "os": os,
        "architecture": architecture,
        "size": image.layers().iter().map(|l| l.size).sum::<u64>(),
        "layers": layers.collect::<Vec<_>>(),
    });
    let mut text = format!("{}\n", image.name());
    if let Some(manifest) = manifest {
        let _ = writeln!(text, "manifest  {manifest}");
    }
    let _ = writeln!(text, "platform  {os}/{architecture}");
    for (n, layer) in image.layers().iter().enumerate() {
        let digest = layer.digest.as_ref().unwrap_or(&layer.diff_id);
        let _ =
            writeln!(text, "layer {n:<3} {digest}  {:>10}  {}", human_bytes(layer.size), layer.media_type);
        let _ = writeln!(text, "  diff id {}", layer.diff_id);
    }
    Ok(Outcome::new(object, text))
}
