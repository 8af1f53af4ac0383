//! `cim`: layers of Windows.

use std::{io::Write, path::Path};

use layerkit::{
    Error, ErrorKind, IoContext, Result,
    cim::{self, CimForm, CimOptions},
    cim_format::{
        Attributes, CimName, CimPath, CimProfile, StreamName,
        stdcim::{Image, Major},
        vhd::UniqueId,
        wcow::WcowOptions,
    },
    model::ReadAt,
};
use serde_json::{Value, json};

use super::{apply, watched};
use crate::{
    args::{
        Global,
        cim::{Cim, CimAction, Import, Kind, Profile, Replay, ReplayTo},
    },
    output::{Outcome, descriptor_json, descriptor_text},
};

pub(super) fn cim(args: Cim, global: &Global) -> Result<Outcome> {
    match args.action {
        CimAction::Import(args) => import(&args, global),
        CimAction::View { journals } => {
            let mut dump = Vec::new();
            cim::open_view(&journals)?.dump(&mut dump)?;
            let dump = String::from_utf8_lossy(&dump);
            Ok(Outcome::new(json!({ "entries": lines(&dump) }), dump))
        }
        CimAction::Replay(args) => replay(&args, global),
        CimAction::Read { cim, path: None } => list(&open(&cim)?),
        CimAction::Read { cim, path: Some(path) } => cat(&open(&cim)?, &path),
        CimAction::SelfTest { dir } => self_test(&dir),
    }
}

fn import(args: &Import, global: &Global) -> Result<Outcome> {
    let refuse = |what: &str| Err(Error::new(ErrorKind::InvalidArgument, what));
    let form = match (args.kind, args.verified) {
        (Kind::Forked, false) => CimForm::Forked,
        (Kind::Block, false) => CimForm::Block,
        (Kind::Block, true) => CimForm::VerifiedBlock,
        (Kind::Forked, true) => return refuse("--verified goes with --kind block"),
    };
    if args.kind == Kind::Forked && args.footer.is_some() {
        return refuse("--footer goes with --kind block");
    }
    if args.kind == Kind::Forked && args.container.is_some() && !args.parents.is_empty() {
        return refuse("--container does not go with the --parent of a forked layer, which is next to it");
    }
    let profile = match args.profile {
        Profile::Spec => CimProfile::Spec,
        Profile::Hcsshim => CimProfile::Hcsshim,
    };
    let mut options = CimOptions::default();
    options.wcow = WcowOptions::default().profile(profile).expand_opaque(args.expand_opaque);
    options.container.clone_from(&args.container);
    options.name = args.name.as_deref().map(CimName::new).transpose()?;
    options.footer = args.footer.as_deref().map(footer).transpose()?;
    let media_type = args.media_type.as_deref().map(str::parse).transpose()?;
    let input = apply::open(&args.layer, media_type)?;
    watched("import", global, None, |watch| {
        let done = cim::import(input, form, &args.parents, &args.out, &options, Default::default(), watch)?;
        let planned = &done.planned;
        let mut object = descriptor_json(&done.layer);
        object["entries"] = json!(planned.entries);
        object["bytes"] = json!(planned.bytes);
        object["hives_to_merge"] = json!(planned.recorded_hives);
        let mut text = descriptor_text(&done.layer);
        if !planned.recorded_hives.is_empty() {
            text += &format!("hives to merge on Windows: {}\n", planned.recorded_hives.join(", "));
        }
        Ok(Outcome::new(object, text))
    })
}

fn footer(id: &str) -> Result<UniqueId> {
    let digits = id.replace('-', "");
    let bytes = (digits.len() == 32 && digits.bytes().all(|b| b.is_ascii_hexdigit()))
        .then(|| u128::from_str_radix(&digits, 16).ok())
        .flatten()
        .map(u128::to_be_bytes);
    bytes.map(UniqueId::Fixed).ok_or_else(|| {
        Error::new(ErrorKind::InvalidArgument, "--footer takes 32 hexadecimal digits").entry(id)
    })
}

fn replay(args: &Replay, global: &Global) -> Result<Outcome> {
    let Replay { journals, output, .. } = args;
    watched("replay", global, None, |watch| match args.to {
        ReplayTo::Cim => {
            let major = match args.major {
                1 => Major::V1,
                2 => Major::V2,
                _ => Major::V3,
            };
            let images = cim::replay_to_cims(journals, output, major, watch)?;
            let text =
                images.iter().map(|name| format!("{}\n", output.join(name).display())).collect::<String>();
            Ok(Outcome::new(json!({ "images": images }), text))
        }
        ReplayTo::Layer | ReplayTo::Tar => {
            let layer = cim::write_tar(journals, args.to == ReplayTo::Tar, output, watch)?;
            Ok(Outcome::new(descriptor_json(&layer), descriptor_text(&layer)))
        }
        ReplayTo::Windows => {
            cim::replay_on_windows(journals, watch)?;
            Ok(Outcome::silent())
        }
    })
}

/// `DIR/NAME.cim`.
fn open(cim: &Path) -> Result<Image> {
    let named = |error: Error| error.entry(cim.as_os_str().as_encoded_bytes());
    let name = cim.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let dir = cim.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    CimName::new(name).and_then(|name| Image::open(dir, &name)).map_err(named)
}

fn list(image: &Image) -> Result<Outcome> {
    let (mut entries, mut text) = (Vec::new(), String::new());
    for entry in image.walk() {
        let entry = entry?;
        let file = &entry.file;
        let (path, size) = (entry.path.to_string(), if file.is_dir() { 0 } else { file.size() });
        let attributes = file.attributes();
        let streams: Vec<_> = file.streams()?.iter().map(|stream| stream.name.to_string()).collect();
        text += &format!("{:>6} {:#07x} {size:>12} {path}\n", file.id().0, attributes.bits());
        for stream in &streams {
            text += &format!("{:28}{path}:{stream}\n", "");
        }
        entries.push(json!({
            "path": path,
            "id": file.id().0,
            "type": kind(attributes),
            "attrs": attributes.bits(),
            "size": size,
            "streams": streams,
        }));
    }
    let version = image.version();
    let object = json!({
        "version": format!("{}.{}", version.major, version.minor),
        "region_bytes": image.region_bytes(),
        "entries": entries,
    });
    Ok(Outcome::new(object, text))
}

fn kind(attributes: Attributes) -> &'static str {
    if attributes.contains(Attributes::REPARSE_POINT) {
        "link"
    } else if attributes.contains(Attributes::DIRECTORY) {
        "dir"
    } else {
        "file"
    }
}

/// Writes a file, or an alternate stream of it, to standard output.
fn cat(image: &Image, path: &str) -> Result<Outcome> {
    let (file, stream) = match path.split_once(':') {
        Some((file, stream)) => (file, Some(StreamName::new(stream)?)),
        None => (path, None),
    };
    let missing = |what: &str| Error::new(ErrorKind::NotFound, what).entry(path);
    let found =
        image.lookup(&CimPath::new(file.replace('/', "\\"))?)?.ok_or_else(|| missing("no such file"))?;
    let content = match &stream {
        Some(name) => found.open_stream(name)?.ok_or_else(|| missing("no such stream"))?,
        None if found.is_dir() => {
            return Err(Error::new(ErrorKind::IsDirectory, "a directory has no content").entry(path));
        }
        None => found.open()?,
    };
    let (mut out, mut buffer, mut at) = (std::io::stdout().lock(), vec![0; 1 << 20], 0);
    loop {
        match content.read_at(&mut buffer, at).during("read the file")? {
            0 => break,
            n => {
                out.write_all(&buffer[..n]).during("write to standard output")?;
                at += n as u64;
            }
        }
    }
    Ok(Outcome::silent().on_standard_error())
}

/// The lines of a dump, as values.
fn lines(dump: &str) -> Vec<Value> {
    dump.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn self_test(dir: &Path) -> Result<Outcome> {
    let report = cim::self_test(dir)?;
    let text = report.iter().map(|step| format!("{step}\n")).collect::<String>();
    Ok(Outcome::new(json!({ "steps": report }), text))
}
