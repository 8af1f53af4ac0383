//! The whole road on files of this machine: an image is made, unpacked, changed, diffed, committed, unpacked again,
//! and compared. Needs no root and no network, and leaves nothing behind.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use layerkit::{
    Base, Changed, DiffOptions, Error, Format, Image, ImageCommitOptions, IoContext, LayerSource, Result,
    Silent, UnpackOptions, commit, commit_new, diff_to_file,
    differ::{TreeDiffer, TreeOptions},
    overlay::{PlainDir, PlainDirOptions},
    store::{CheckOptions, LocalStore},
    tar::{WriteOptions, compress::Gzip},
    unpack,
};

/// Where files that an ordinary user may read are found; the first ones that exist are taken.
const SOURCES: [&str; 6] =
    ["/usr/include", "/usr/share/doc", "/usr/share/perl", "/etc", "/usr/lib/python3", "/usr/share"];

/// How much is taken of them.
const ENOUGH: u64 = 64 << 20;

fn main() -> ExitCode {
    match tour() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tour: {}", error.chain());
            ExitCode::FAILURE
        }
    }
}

fn tour() -> Result<()> {
    let scratch = Scratch::new()?;
    let at = |name: &str| scratch.0.join(name);
    let mut table = Table::default();

    let tree = at("tree");
    let found = table.step("copy files of this machine", || collect(&tree))?;
    table.size(found.files, found.bytes);

    // Times to the nanosecond, so that what is unpacked equals what was packed.
    let exact = WriteOptions::default().nanoseconds(true);
    let gzip = DiffOptions::default().codec(Gzip::default()).tar(exact.clone());
    let options = ImageCommitOptions::default().diff(gzip.clone()).created_by("tour");
    let layout = at("image");
    let base = table.step("commit them as an image (tar+gzip)", || {
        commit_new(&layout, &Changed::in_tree(&tree).over_nothing(), "base", &options, &Silent)
    })?;
    table.size(base.diffed.report.changes(), found.bytes);

    let image = Image::open(&format!("oci:{}:base", layout.display()).parse()?)?;
    table.step("unpack it, a directory a layer", || {
        unpack(&image, &at("overlay"), &UnpackOptions::default().format(Format::Overlay), &Silent)
    })?;
    table.size(base.diffed.report.changes(), found.bytes);
    let flat = UnpackOptions::default().format(Format::Flat);
    table.step("unpack it, one merged tree", || unpack(&image, &at("flat"), &flat, &Silent))?;
    table.size(base.diffed.report.changes(), found.bytes);

    let changed = at("flat/rootfs");
    let edits = table.step("change files", || change(&changed))?;
    table.size(edits, 0);

    let now = Changed::in_tree(&changed).over([&tree]);
    let tar = DiffOptions::default().tar(exact);
    let diffed =
        table.step("diff the changed tree (tar)", || diff_to_file(&now, &at("change.tar"), &tar, &Silent))?;
    table.size(diffed.report.changes(), found.bytes);
    table.step("commit the change on the image", || {
        let from = format!("oci:{}:base", layout.display()).parse()?;
        commit(&from, &now, "changed", &options, &Silent)
    })?;
    table.size(diffed.report.changes(), found.bytes);

    let image = Image::open(&format!("oci:{}:changed", layout.display()).parse()?)?;
    table.step("unpack the new image", || unpack(&image, &at("again"), &flat, &Silent))?;
    table.size(base.diffed.report.changes() + diffed.report.changes(), found.bytes);

    let differences = table.step("compare it with the changed tree", || {
        let open = |dir| PlainDir::open(dir, PlainDirOptions::default());
        let (want, got) = (open(changed.clone())?, open(at("again/rootfs"))?);
        let differ = TreeDiffer::new(TreeOptions::new());
        let stack = layerkit::Stack::of(want);
        let mut source = differ.changes(&got, Base::Layers(&stack), &Silent)?;
        let mut differences = Vec::new();
        while let Some(change) = source.next_change()? {
            differences.push(change.path.to_owned());
        }
        Ok(differences)
    })?;
    table.size(found.files, found.bytes);

    let store = LocalStore::open(&layout)?;
    let checked =
        table.step("check every blob of the store", || store.check(&CheckOptions::new(), &Silent))?;
    table.size(checked.blobs, checked.bytes);
    table.print()?;

    let report = &diffed.report;
    println!(
        "\nthe change: {} files, {} directories, {} removals; a layer of {} bytes",
        report.files, report.directories, report.removals, diffed.layer.size
    );
    println!("diff id     {}", diffed.layer.diff_id);
    match differences.first() {
        None => println!("result      the image unpacked again equals the changed tree"),
        Some(path) => {
            let message = format!("{} paths differ, the first one here", differences.len());
            return Err(Error::new(layerkit::ErrorKind::FileChanged, message).at(path.as_path()));
        }
    }
    Ok(())
}

/// A directory that goes away with the tour.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self> {
        let dir = std::env::temp_dir().join(format!("layerkit-tour-{}", std::process::id()));
        fs::create_dir(&dir).during("make a scratch directory")?;
        Ok(Self(dir))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[derive(Default)]
struct Found {
    files: u64,
    bytes: u64,
}

/// Copies readable files of this machine into `tree` until there is enough.
fn collect(tree: &Path) -> Result<Found> {
    let mut found = Found::default();
    for source in SOURCES.map(Path::new) {
        let name = source.strip_prefix("/").unwrap_or(source);
        // What cannot be read is not for this user; the rest is enough.
        let _ = copy(source, &tree.join(name), &mut found);
    }
    fs::create_dir_all(tree.join("srv")).during("make a directory")?;
    fs::write(tree.join("srv/motd"), "hello\n").during("write a file")?;
    Ok(found)
}

fn copy(from: &Path, to: &Path, found: &mut Found) -> io::Result<()> {
    fs::create_dir_all(to)?;
    let mut names: Vec<_> = fs::read_dir(from)?.collect::<io::Result<Vec<_>>>()?;
    names.sort_by_key(fs::DirEntry::file_name);
    for entry in names {
        if found.bytes >= ENOUGH {
            break;
        }
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type()?;
        if kind.is_dir() {
            let _ = copy(&from, &to, found);
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(&from)?, &to)?;
        } else if kind.is_file()
            && let Ok(bytes) = fs::copy(&from, &to)
        {
            found.files += 1;
            found.bytes += bytes;
        }
    }
    Ok(())
}

/// Changes a tree in every way that needs no privilege, and says how often.
fn change(tree: &Path) -> Result<u64> {
    let srv = tree.join("srv");
    fs::write(srv.join("motd"), "changed\n").during("modify a file")?;
    fs::create_dir_all(srv.join("new/deep")).during("add a directory")?;
    fs::write(srv.join("new/deep/file"), "added\n").during("add a file")?;
    fs::hard_link(srv.join("new/deep/file"), srv.join("new/linked")).during("add a hard link")?;
    std::os::unix::fs::symlink("new/linked", srv.join("link")).during("add a link")?;
    let mut removed = 0;
    let sources = SOURCES.map(|source| tree.join(source.trim_start_matches('/')));
    let first = sources.iter().find_map(|dir| fs::read_dir(dir).ok());
    for name in first.into_iter().flatten().flatten().take(5) {
        let path = name.path();
        let is_dir = path.is_dir() && !path.is_symlink();
        let gone = if is_dir { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed += u64::from(gone.is_ok());
    }
    Ok(6 + removed)
}

/// What happened, and how fast.
#[derive(Default)]
struct Table {
    rows: Vec<(String, Duration, u64, u64)>,
}

impl Table {
    fn step<T>(&mut self, name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let start = Instant::now();
        let done = work().map_err(|e| e.context(name))?;
        self.rows.push((name.to_owned(), start.elapsed(), 0, 0));
        Ok(done)
    }

    /// Says how much the last step handled.
    fn size(&mut self, entries: u64, bytes: u64) {
        if let Some(row) = self.rows.last_mut() {
            (row.2, row.3) = (entries, bytes);
        }
    }

    fn print(&self) -> Result<()> {
        let mut out = io::stdout().lock();
        let mut line = |text: String| writeln!(out, "{text}").during("print");
        line(format!("{:<36} {:>8} {:>9} {:>9} {:>10}", "step", "entries", "MiB", "ms", "MiB/s"))?;
        for (name, time, entries, bytes) in &self.rows {
            let (mib, secs) = (*bytes as f64 / f64::from(1 << 20), time.as_secs_f64());
            let speed = if *bytes == 0 { String::new() } else { format!("{:.0}", mib / secs) };
            line(format!("{name:<36} {entries:>8} {mib:>9.1} {:>9.1} {speed:>10}", secs * 1000.0))?;
        }
        Ok(())
    }
}
