//! `erofs`: building images, and what makes one.

mod listing;

use std::{collections::HashSet, path::Path};

use layerkit::{
    DiffOptions, Error, ErrorKind, LayerPathBuf, Result,
    apply::{ErofsImage, ErofsOptions, OverlayXattrs, Whiteouts, erofs_error},
    erofs::{self, BuildOptions, Data, MergeForm},
    format::{CheckOptions, MergeOptions, OpenOptions, Severity, Times, Timestamp, WriteOptions},
    model::Timestamp as ModelTime,
    write_file,
};
use serde_json::{Value, json};

use super::{apply, watched};
use crate::{
    args::{
        Global,
        erofs::{Build, Erofs, ErofsAction, Image, Merge, TarIndex, Write},
    },
    output::{Outcome, descriptor_json, descriptor_text, human_bytes},
};

pub(super) fn erofs(args: Erofs, global: &Global) -> Result<Outcome> {
    match args.action {
        ErofsAction::Build(args) => build(&args, global),
        ErofsAction::Ls { image, path } => listing::ls(&open(&image)?, &path),
        ErofsAction::Cat { image, path } => listing::cat(&open(&image)?, &path),
        ErofsAction::Info { image } => listing::info(&image),
        ErofsAction::Extract { image, dir } => extract(&open(&image)?, &dir, global),
        ErofsAction::ToTar { image, output } => to_tar(&open(&image)?, &output, global),
        ErofsAction::Check { image, unused_space } => check(&open(&image)?, unused_space, global),
        ErofsAction::Merge(args) => merge(&args),
        ErofsAction::Verity { image, verify: None, .. } => protect(&image),
        ErofsAction::Verity { image, verify: Some(root), hash_offset } => {
            erofs::verify(&image, &root, hash_offset.unwrap_or_default())?;
            Ok(Outcome::new(json!({ "root_hash": root, "verified": true }), "verified\n"))
        }
    }
}

/// Opens an image with its devices.
fn open(image: &Image) -> Result<ErofsImage> {
    ErofsImage::open_with(OpenOptions::new().lenient(image.lenient), &image.file, &image.devices)
}

fn build(args: &Build, global: &Global) -> Result<Outcome> {
    let options =
        BuildOptions::default().image(image_options(args)?).data(match (&args.blob_dev, args.tar_index) {
            (Some(blob), _) => Data::Blob(blob.clone()),
            (None, Some(TarIndex::Device)) => Data::Archive,
            (None, Some(TarIndex::Append)) => Data::ArchiveBehind,
            (None, None) => Data::Inside,
        });
    let media_type = args.media_type.as_deref().map(str::parse).transpose()?;
    if args.tar.as_deref() == Some("-") && args.tar_index == Some(TarIndex::Append) {
        let message = "--tar-index append reads the layer twice, which standard input does not allow";
        return Err(Error::new(ErrorKind::InvalidArgument, message));
    }
    watched("build", global, None, |watch| {
        let built = match (&args.tar, &args.dir) {
            (Some(layer), _) => {
                let open = || apply::open(layer, media_type.clone());
                erofs::build_from_layer(&open, &args.output, &options, watch)?
            }
            (None, Some(dir)) => erofs::build_from_dir(dir, args.layer, &args.output, &options, watch)?,
            (None, None) => return Err(Error::new(ErrorKind::InvalidArgument, "--tar or --dir is needed")),
        };
        let image = &built.written.image;
        let mut object = json!({
            "size": image.size,
            "blocks": image.blocks,
            "inodes": image.inodes,
            "entries": built.written.entries,
            "bytes": built.written.bytes,
        });
        let mut text = format!("{} inodes, {}\n", image.inodes, human_bytes(image.size));
        if let Some(layer) = &built.layer {
            object["layer"] = descriptor_json(layer);
            text += &descriptor_text(layer);
        }
        Ok(Outcome::new(object, text))
    })
}

fn image_options(args: &Build) -> Result<ErofsOptions> {
    let owner = |forced: Option<u32>| if args.all_root { Some(0) } else { forced };
    let mut options = ErofsOptions::new()
        .write(write_options(&args.write)?)
        .no_xattrs(args.no_xattrs)
        .owner(owner(args.force_uid), owner(args.force_gid));
    if let Some(epoch) = args.write.source_date_epoch.or(args.write.all_time) {
        options = options.implied_dir_time(ModelTime::from_secs(epoch));
    }
    if args.strip {
        options = options.whiteouts(Whiteouts::Leave);
    }
    if args.escape_overlay_xattrs {
        options = options.overlay_xattrs(OverlayXattrs::Escape);
    }
    // A directory is taken as it is, marks and all.
    if args.dir.is_some() && !args.layer {
        options = options.overlay_xattrs(OverlayXattrs::Keep);
    }
    for prefix in &args.exclude_xattr {
        options = options.drop_xattrs(prefix.as_bytes());
    }
    if args.exclude_path.is_empty() && args.exclude_regex.is_empty() {
        return Ok(options);
    }
    let paths = args.exclude_path.iter().map(|path| LayerPathBuf::clean(path.as_bytes()));
    let paths: HashSet<LayerPathBuf> = paths.collect::<Result<_>>()?;
    let patterns = regex::bytes::RegexSet::new(&args.exclude_regex)
        .map_err(|error| Error::new(ErrorKind::InvalidArgument, "--exclude-regex").cause(error))?;
    Ok(options.exclude(move |path| paths.contains(&path.to_owned()) || patterns.is_match(path.as_bytes())))
}

fn write_options(args: &Write) -> Result<WriteOptions> {
    let mut options = WriteOptions::new()
        .inline_data(!args.no_inline)
        .whole_seconds(args.whole_seconds)
        .large(args.large)
        .epoch_from_files(true)
        .checksum(!args.no_checksum)
        .block_size(args.block_size)
        .map_err(erofs_error)?;
    if args.large {
        options = options.target(layerkit::format::Target::Linux6_15);
    }
    let time = |seconds| Timestamp { seconds, nanoseconds: 0 };
    if let Some(epoch) = args.source_date_epoch {
        options = options.times(Times::AtMost(time(epoch))).build_time(epoch);
    }
    if let Some(all) = args.all_time {
        options = options.times(Times::All(time(all))).build_time(all);
    }
    if let Some(size) = args.chunk_size {
        options = options.chunk_size(size).map_err(erofs_error)?;
    }
    if let Some(uuid) = &args.uuid {
        options = options.uuid(parse_uuid(uuid)?);
    }
    if let Some(label) = &args.label {
        options = options.label(label.as_bytes()).map_err(erofs_error)?;
    }
    if let Some(uses) = args.share_xattrs {
        options = options.share_xattrs((uses > 0).then_some(uses));
    }
    for prefix in &args.xattr_prefix {
        options = options.xattr_prefix(prefix).map_err(erofs_error)?;
    }
    Ok(options)
}

fn parse_uuid(text: &str) -> Result<[u8; 16]> {
    let digits = text.replace('-', "");
    let hex = digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    match u128::from_str_radix(&digits, 16) {
        Ok(uuid) if hex => Ok(uuid.to_be_bytes()),
        _ => Err(Error::new(ErrorKind::InvalidArgument, "a UUID has 32 hexadecimal digits")),
    }
}

fn extract(image: &ErofsImage, dir: &Path, global: &Global) -> Result<Outcome> {
    watched("extract", global, None, |watch| {
        let entries = erofs::extract(image, dir, watch)?;
        Ok(Outcome::new(json!({ "entries": entries }), format!("{entries} entries\n")))
    })
}

fn to_tar(image: &ErofsImage, output: &Path, global: &Global) -> Result<Outcome> {
    let mut options = DiffOptions::default();
    options.jobs = global.jobs;
    options.tar = options.tar.nanoseconds(true);
    watched("to-tar", global, None, |watch| {
        if output == Path::new("-") {
            let (_, layer) = erofs::to_tar(image, std::io::stdout(), &options, watch)?;
            return Ok(Outcome::new(descriptor_json(&layer), "").on_standard_error());
        }
        let layer = write_file(output, |file| Ok(erofs::to_tar(image, file, &options, watch)?.1))?;
        Ok(Outcome::new(descriptor_json(&layer), descriptor_text(&layer)))
    })
}

fn check(image: &ErofsImage, unused_space: bool, global: &Global) -> Result<Outcome> {
    let mut options = CheckOptions::new().unused_space(unused_space);
    if let Some(jobs) = global.jobs {
        options = options.jobs(jobs.get());
    }
    let report = image.image().check(&options).map_err(erofs_error)?;
    let findings: Vec<Value> = report
        .findings
        .iter()
        .map(|found| {
            json!({
                "severity": if found.severity == Severity::Error { "error" } else { "warning" },
                "structure": found.structure,
                "offset": found.offset,
                "nid": found.nid.map(|nid| nid.to_string()),
                "message": found.message,
            })
        })
        .collect();
    let mut text: String = report.findings.iter().map(|found| format!("{found}\n")).collect();
    if report.more > 0 {
        text += &format!("and {} more\n", report.more);
    }
    let sound = report.is_sound();
    text += &format!(
        "{} inodes, {} directories, {} entries: {}\n",
        report.inodes,
        report.directories,
        report.entries,
        if sound { "sound" } else { "damaged" }
    );
    let object = json!({
        "sound": sound,
        "inodes": report.inodes,
        "directories": report.directories,
        "entries": report.entries,
        "findings": findings,
        "more": report.more,
    });
    let mut outcome = Outcome::new(object, text);
    outcome.good = sound;
    Ok(outcome)
}

fn merge(args: &Merge) -> Result<Outcome> {
    let open = |path: &std::path::PathBuf| ErofsImage::open::<&Path>(path, &[]);
    let layers = args.images.iter().map(open).collect::<Result<Vec<_>>>()?;
    let form = if args.flat { MergeForm::Flat } else { MergeForm::OverDevices };
    let options = MergeOptions::new().strip_markers(args.strip).pass_redirects(args.pass_redirects);
    let summary = erofs::merge(&layers, &args.output, form, &options, &write_options(&args.write)?)?;
    let object = json!({ "size": summary.size, "blocks": summary.blocks, "inodes": summary.inodes });
    Ok(Outcome::new(object, format!("{} inodes, {}\n", summary.inodes, human_bytes(summary.size))))
}

fn protect(image: &Path) -> Result<Outcome> {
    let done = erofs::protect(image)?;
    let object = json!({
        "root_hash": done.root_hash,
        "hash_offset": done.hash_offset,
        "appended": done.appended,
        "sidecar": done.sidecar.display().to_string(),
    });
    Ok(Outcome::new(object, format!("root hash    {}\nhash offset  {}\n", done.root_hash, done.hash_offset)))
}
