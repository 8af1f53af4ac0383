//! `diff`: the layer that a directory's changes make, and the options that it shares with `commit`.

use std::{path::Path, sync::Arc};

use layerkit::{
    Changed, DiffOptions, Diffed, Error, ErrorKind, LayerForm, Profile, Result, diff_to_file, diff_to_store,
    store::LocalStore,
    tar::{
        WriteOptions,
        compress::{Codec, Gzip, Plain},
    },
};
use serde_json::{Value, json};

use super::watched;
use crate::{
    args::{self, BlobFormat, Diff, Global},
    output::{Outcome, descriptor_json, descriptor_text},
};

pub(super) fn diff(args: &Diff, global: &Global) -> Result<Outcome> {
    let changed = changed(&args.changed);
    let options = options(&args.changed, args.format, global)?.algorithm(args.digest_algorithm);
    watched("diff", global, None, |watch| {
        let diffed = match (&args.output, &args.store) {
            (Some(file), _) if file == Path::new("-") => {
                let (_, diffed) = layerkit::diff(&changed, std::io::stdout(), &options, watch)?;
                return Ok(Outcome::new(describe(&diffed), "").on_standard_error());
            }
            (Some(file), _) => diff_to_file(&changed, file, &options, watch)?,
            (None, Some(store)) => {
                let store = LocalStore::open_or_create(store)?;
                diff_to_store(&changed, &store, &options, watch)?
            }
            (None, None) => return Err(Error::new(ErrorKind::InvalidArgument, "-o or --store is needed")),
        };
        Ok(Outcome::new(describe(&diffed), descriptor_text(&diffed.layer)))
    })
}

/// What the arguments say was changed.
pub(super) fn changed(args: &args::Changed) -> Changed {
    let changed = if args.walk { Changed::in_tree(&args.upper) } else { Changed::in_upper(&args.upper) };
    if args.no_lower { changed.over_nothing() } else { changed.over(args.lowers.iter()) }
}

/// How the arguments want the blob.
pub(super) fn options(args: &args::Changed, format: BlobFormat, global: &Global) -> Result<DiffOptions> {
    let tar = WriteOptions::default().source_date_epoch(args.source_date_epoch);
    let profile = if args.containerd { Profile::Containerd } else { Profile::Spec };
    let mut options = DiffOptions::default().profile(profile).tar(tar);
    options.jobs = global.jobs;
    options.codec = codec(format, args.level)?;
    options.form = format.form();
    options.erofs_type = args.erofs_type.as_deref().map(str::parse).transpose()?;
    Ok(options)
}

impl BlobFormat {
    /// What a layer of this format is.
    pub(super) fn form(self) -> LayerForm {
        match self {
            Self::Tar | Self::TarGzip | Self::TarZstd => LayerForm::Tar,
            Self::Erofs | Self::ErofsZstd => LayerForm::Erofs,
        }
    }
}

/// How a format compresses.
pub(super) fn codec(format: BlobFormat, level: Option<i32>) -> Result<Arc<dyn Codec>> {
    match format {
        BlobFormat::Tar | BlobFormat::Erofs => Ok(Arc::new(Plain)),
        BlobFormat::TarGzip => gzip(level),
        BlobFormat::TarZstd | BlobFormat::ErofsZstd => zstd(level),
    }
}

fn gzip(level: Option<i32>) -> Result<Arc<dyn Codec>> {
    let gzip = match level.map(u8::try_from) {
        None => Gzip::default(),
        Some(Ok(level)) => Gzip::new(level),
        Some(Err(_)) => return Err(Error::new(ErrorKind::InvalidArgument, "gzip has no such level")),
    };
    #[cfg(feature = "c-codecs")]
    let gzip = gzip.with_libdeflate();
    Ok(Arc::new(gzip))
}

#[cfg(feature = "c-codecs")]
fn zstd(level: Option<i32>) -> Result<Arc<dyn Codec>> {
    use layerkit::tar::compress::Zstd;
    Ok(Arc::new(level.map_or_else(Zstd::default, Zstd::new)))
}

#[cfg(not(feature = "c-codecs"))]
fn zstd(_level: Option<i32>) -> Result<Arc<dyn Codec>> {
    Err(Error::new(ErrorKind::NotSupported, "this build does not write zstd (it lacks the feature c-codecs)"))
}

/// The descriptor, and what the differ found.
pub(super) fn describe(diffed: &Diffed) -> Value {
    let report = &diffed.report;
    let mut object = descriptor_json(&diffed.layer);
    object["report"] = json!({
        "method": report.method.name(),
        "directories": report.directories,
        "files": report.files,
        "bytes": report.bytes,
        "symlinks": report.symlinks,
        "hard_links": report.hard_links,
        "devices": report.devices,
        "fifos": report.fifos,
        "whiteouts": report.removals,
        "opaque": report.opaques,
        "unchanged": report.unchanged,
        "dropped_sockets": report.dropped_sockets,
    });
    object
}
