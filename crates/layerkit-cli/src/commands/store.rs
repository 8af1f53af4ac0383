//! `store`: looking after a content store.

use std::{
    fmt::Write as _,
    fs::File,
    io::{self, Write},
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use layerkit::{
    Content, Digest, Error, ErrorKind, IoContext, Result,
    store::{
        CheckOptions, CommitOptions, ContentStore, ContentStoreExt, Filters, GcOptions, Info, LabelUpdate,
        Labels, LocalStore, Source,
    },
};
use serde_json::{Value, json};

use super::watched;
use crate::{
    args::{Global, Store, StoreAction},
    output::{Outcome, human_bytes},
};

pub(super) fn store(args: Store, global: &Global) -> Result<Outcome> {
    let Some(dir) = args.dir else {
        return Err(Error::new(ErrorKind::InvalidArgument, "--store DIR is needed"));
    };
    match args.action {
        StoreAction::Put { file, digest, size, reference, labels } => {
            let store = LocalStore::open_or_create(dir)?;
            let mut options = CommitOptions::new().labels(parse_labels(&labels)?);
            options.digest = digest.as_deref().map(str::parse).transpose()?;
            options.size = size;
            put(&store, &file, reference, &options, global)
        }
        action => {
            let store = LocalStore::open(dir)?;
            match action {
                StoreAction::Ls => list(&store),
                StoreAction::Info { digest } => Ok(show(&store.info(&digest.parse()?)?)),
                StoreAction::Get { digest, output } => get(&store, &digest.parse()?, output.as_deref()),
                StoreAction::Label { digest, labels } => {
                    let update = LabelUpdate::Change(parse_labels(&labels)?);
                    Ok(show(&store.update(&digest.parse()?, &update)?))
                }
                StoreAction::Rm { digest } => {
                    let digest: Digest = digest.parse()?;
                    store.delete(&digest)?;
                    Ok(Outcome::new(json!({ "removed": digest.as_str() }), ""))
                }
                StoreAction::Gc { grace } => gc(&store, Duration::from_secs(grace), global),
                StoreAction::Check => check(&store, global),
                StoreAction::Put { .. } => unreachable!("taken above, because it may make the store"),
            }
        }
    }
}

fn parse_labels(labels: &[String]) -> Result<Labels> {
    let pair = |label: &String| match label.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(Error::new(ErrorKind::InvalidArgument, format!("{label:?} is not of the form KEY=VALUE"))),
    };
    labels.iter().map(pair).collect()
}

fn put(
    store: &LocalStore,
    file: &Path,
    reference: Option<String>,
    options: &CommitOptions,
    global: &Global,
) -> Result<Outcome> {
    let stdin = file == Path::new("-");
    let opened = if stdin { None } else { Some(open(file)?) };
    let total = opened.as_ref().and_then(|f| f.metadata().ok()).map(|m| m.len());
    // A reference by which nobody will look for the ingest again must not meet another one's.
    let reference = reference.unwrap_or_else(|| format!("put-{}", std::process::id()));
    watched("put", global, total, |watch| {
        let made = match &opened {
            Some(file) => store.write_blob(&reference, Source::At(file), options, watch)?,
            None => store.write_blob(&reference, Source::Stream(&mut io::stdin()), options, watch)?,
        };
        let object = json!({ "digest": made.digest.as_str(), "size": made.size, "existed": made.existed });
        Ok(Outcome::new(object, format!("{}\n", made.digest)))
    })
}

fn open(file: &Path) -> Result<File> {
    File::open(file).during("open").map_err(|e| e.entry(file.as_os_str().as_encoded_bytes()))
}

fn get(store: &LocalStore, digest: &Digest, output: Option<&Path>) -> Result<Outcome> {
    let reader = store.reader(digest)?;
    let size = reader.len().during("measure the blob")?;
    let content = Content::from_range(&*reader, 0, size);
    let object = json!({ "digest": digest.as_str(), "size": size });
    match output.filter(|path| *path != Path::new("-")) {
        Some(path) => {
            let at = |e: Error| e.entry(path.as_os_str().as_encoded_bytes());
            layerkit::write_file(path, |file| content.write_to(file)).map_err(at)?;
            Ok(Outcome::new(object, ""))
        }
        None => {
            let mut out = io::stdout().lock();
            content.write_to(&mut out)?;
            out.flush().during("write the blob")?;
            Ok(Outcome::new(object, "").on_standard_error())
        }
    }
}

fn list(store: &LocalStore) -> Result<Outcome> {
    let (mut blobs, mut text) = (Vec::new(), String::new());
    store.walk(&Filters::all(), &mut |info| {
        let _ = writeln!(text, "{}  {:>10}", info.digest, human_bytes(info.size));
        blobs.push(describe(&info));
        Ok(())
    })?;
    Ok(Outcome::new(json!({ "blobs": blobs }), text))
}

fn show(info: &Info) -> Outcome {
    let mut text = format!("digest   {}\nsize     {}\n", info.digest, info.size);
    for (key, value) in &info.labels {
        let _ = writeln!(text, "label    {key}={value}");
    }
    Outcome::new(describe(info), text)
}

fn describe(info: &Info) -> Value {
    let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    json!({
        "digest": info.digest.as_str(),
        "size": info.size,
        "created": seconds(info.created),
        "updated": seconds(info.updated),
        "labels": info.labels,
    })
}

fn gc(store: &LocalStore, grace: Duration, global: &Global) -> Result<Outcome> {
    watched("gc", global, None, |watch| {
        let report = store.gc(&GcOptions::new().grace(grace), watch)?;
        let removed: Vec<_> = report.removed.iter().map(|(digest, _)| digest.as_str()).collect();
        let object = json!({
            "removed": removed,
            "bytes": report.bytes,
            "kept": report.kept,
            "leases": report.leases,
            "ingests": report.ingests,
        });
        let text = format!(
            "{} blobs removed ({}), {} kept\n",
            removed.len(),
            human_bytes(report.bytes),
            report.kept
        );
        Ok(Outcome::new(object, text))
    })
}

fn check(store: &LocalStore, global: &Global) -> Result<Outcome> {
    watched("check", global, None, |watch| {
        let mut options = CheckOptions::new();
        if let Some(jobs) = global.jobs {
            options = options.jobs(jobs.get());
        }
        let report = store.check(&options, watch)?;
        let problems: Vec<String> = report.problems.iter().map(ToString::to_string).collect();
        let object = json!({
            "ok": report.is_sound(),
            "blobs": report.blobs,
            "bytes": report.bytes,
            "problems": problems,
        });
        let mut text = problems.iter().fold(String::new(), |text, problem| text + problem + "\n");
        let _ = writeln!(
            text,
            "{} blobs, {}, {} problems",
            report.blobs,
            human_bytes(report.bytes),
            problems.len()
        );
        let mut outcome = Outcome::new(object, text);
        outcome.good = report.is_sound();
        Ok(outcome)
    })
}
