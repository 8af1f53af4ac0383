//! `mount` and `umount`.

use std::path::Path;

use layerkit::{Result, Upper};
use serde_json::json;

use crate::{args::Mount, output::Outcome};

pub(super) fn mount(args: &Mount) -> Result<Outcome> {
    let upper = args.rw.as_ref().map(Upper::new);
    layerkit::mount(&args.dest, &args.mountpoint, upper.as_ref())?;
    Ok(Outcome::new(
        json!({ "mountpoint": args.mountpoint.to_string_lossy(), "writable": upper.is_some() }),
        "",
    ))
}

pub(super) fn umount(mountpoint: &Path) -> Result<Outcome> {
    layerkit::umount(mountpoint)?;
    Ok(Outcome::silent())
}
