//! `commit`: a layer on top of an image.

use layerkit::{Image, ImageCommitOptions, ImageRef, Result, commit as commit_on, commit_new};
use serde_json::json;

use super::{diff, watched};
use crate::{
    args::{Commit, Global},
    output::{Outcome, descriptor_text},
};

pub(super) fn commit(args: &Commit, global: &Global) -> Result<Outcome> {
    let image: ImageRef = args.image.parse()?;
    let changed = diff::changed(&args.changed);
    let mut options = ImageCommitOptions::default()
        .diff(diff::options(&args.changed, args.format, global)?)
        .created_by("layerkit commit");
    options.created = args.changed.source_date_epoch;
    watched("commit", global, None, |watch| {
        let made = match &image {
            // The first layer of an image that is not there yet.
            ImageRef::Oci { layout, tag: None } if args.changed.no_lower && Image::open(&image).is_err() => {
                commit_new(layout, &changed, &args.tag, &options, watch)?
            }
            _ => commit_on(&image, &changed, &args.tag, &options, watch)?,
        };
        let mut object = diff::describe(&made.diffed);
        object["manifest"] = json!(made.manifest.digest().to_string());
        object["tag"] = json!(args.tag);
        let text = format!("{}manifest   {}\n", descriptor_text(&made.diffed.layer), made.manifest.digest());
        Ok(Outcome::new(object, text))
    })
}
