//! `convert`: an image with its layers in another form.

use layerkit::{ConvertOptions, Image, ImageRef, Result, convert as convert_image};
use serde_json::json;

use super::{diff::codec, watched};
use crate::{
    args::{BlobFormat, Convert, Global, LayerTarget},
    output::{Outcome, descriptor_json, descriptor_text},
};

pub(super) fn convert(args: &Convert, global: &Global) -> Result<Outcome> {
    let image = Image::open(&args.image.parse::<ImageRef>()?)?;
    let to: ImageRef = args.converted.parse()?;
    let format = match args.to {
        LayerTarget::Uncompressed => BlobFormat::Tar,
        LayerTarget::Gzip => BlobFormat::TarGzip,
        LayerTarget::Zstd => BlobFormat::TarZstd,
        LayerTarget::Erofs => BlobFormat::Erofs,
        LayerTarget::ErofsZstd => BlobFormat::ErofsZstd,
    };
    let mut options = ConvertOptions::default().form(format.form());
    options.codec = codec(format, args.level)?;
    options.erofs_type = args.erofs_type.as_deref().map(str::parse).transpose()?;
    options.jobs = global.jobs;
    let total = image.layers().iter().map(|layer| layer.size).sum();
    watched("convert", global, Some(total), |watch| {
        let made = convert_image(&image, &to, &options, watch)?;
        let object = json!({
            "manifest": made.manifest.digest().to_string(),
            "tag": made.tag,
            "layers": made.layers.iter().map(descriptor_json).collect::<Vec<_>>(),
        });
        let mut text: String = made.layers.iter().map(descriptor_text).collect();
        text += &format!("manifest   {}\n", made.manifest.digest());
        Ok(Outcome::new(object, text))
    })
}
