//! A check of the machine that it runs on: CIMs are made, mounted, walked, and compared with the model.
//!
//! What is only inferred about CimFS shows here. [`self_test`] takes the functions and a way to look into a mounted
//! volume, so that the check itself is tested with an emulator; on Windows [`self_test_here`] runs it for real, which
//! takes the right to mount.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use layer_model::{Error, ErrorKind, Result, Silent, Stack};

use sha2::{Digest, Sha256};

use crate::{
    Attributes, Capabilities, CimKind, CimName, CimPath, FileMeta, FileTime, Guid, StreamName,
    content::MemoryBlobs,
    here,
    model::{self, EntryRef, ImageTree, ModelSink, View},
    plan::LayerDir,
    table::{CimApi, ImageRef, Mount, TableSink},
    typed::{
        AtLeastTwo, BlockCim, BlockStorage, Committed, Container, Forked, ForkedCim, ImageDir, Import,
        ImportOptions, Role, SingleFile, Target, Unverified, Writer, merge,
    },
};

/// What there is on a mounted volume: files with the SHA-256 of their content, and directories.
pub type Listing = BTreeMap<CimPath, Option<[u8; 32]>>;

/// Looks into mounted volumes.
pub trait Volumes {
    /// All that is on the volume, but for `System Volume Information` and the like, which Windows adds.
    ///
    /// # Errors
    /// Those of looking.
    fn list(&self, volume: Guid) -> Result<Listing>;
}

/// The volume that images are mounted as; any will do that nobody else has.
const VOLUME: Guid = Guid::from_rfc([
    0x6c, 0x61, 0x79, 0x65, 0x72, 0x6b, 0x49, 0x74, 0x83, 0x6d, 0x74, 0x65, 0x73, 0x74, 0x00, 0x01,
]);

type Sink = (ModelSink<MemoryBlobs>, TableSink);

/// Makes forked and block CIMs below `dir`, a directory of the host that is there and empty, mounts them and compares
/// what is there with the model. Says what was done, a line a step.
///
/// # Errors
/// [`ErrorKind::NotSupported`] when nothing can be tested here, [`ErrorKind::FailedPrecondition`] for a difference, and
/// errors of the functions, with the step.
pub fn self_test(
    api: &CimApi,
    capabilities: &Capabilities,
    volumes: &dyn Volumes,
    dir: &str,
) -> Result<Vec<String>> {
    let test = Test { api, volumes, dir };
    let mut steps = Vec::new();
    capabilities.mount()?;
    match capabilities.fork() {
        Ok(can) => test.forked(can, &mut steps).map_err(|error| error.context("forked CIMs"))?,
        Err(error) => steps.push(format!("skipped: {error}")),
    }
    let block: Result<_> =
        (|| Ok((capabilities.write_blocks()?, capabilities.merge()?, capabilities.mount_merged()?)))();
    match block {
        Ok((can, merge, _)) => {
            test.block(can, merge, &mut steps).map_err(|error| error.context("block CIMs"))?
        }
        Err(error) => steps.push(format!("skipped: {error}")),
    }
    if steps.iter().all(|step| step.starts_with("skipped")) {
        return Err(Error::new(ErrorKind::NotSupported, steps.join("; ")));
    }
    Ok(steps)
}

struct Test<'t> {
    api: &'t CimApi,
    volumes: &'t dyn Volumes,
    dir: &'t str,
}

impl Test<'_> {
    fn forked(&self, can: crate::caps::CanFork, steps: &mut Vec<String>) -> Result<()> {
        let dir = ImageDir::new(self.dir)?;
        let (options, names) =
            (ImportOptions::default(), [CimName::new("base.cim")?, CimName::new("child.cim")?]);
        let sink = self.sink(ImageTree::new(CimKind::Forked));
        let files = self.files("forked-base");
        let mut writer = Import::<Forked>::base(&dir, names[0].clone(), files, sink, can, options, &Silent)?;
        base(&mut writer)?;
        let layer = writer.commit()?;
        let layer = kept(layer, ForkedCim::with_tree)?;
        steps.push(self.compare_one(&layer)?);

        let parents = Stack::of(layer);
        let fork = parents.nearest().tree().map(|tree| tree.fork());
        let sink = self.sink(fork.unwrap_or_else(|| ImageTree::new(CimKind::Forked)));
        let files = self.files("forked-child");
        let mut writer =
            Import::<Forked>::child(&parents, names[1].clone(), files, sink, can, options, &Silent)?;
        child(&mut writer)?;
        writer.remove(&path(r"Files\gone")?)?;
        let child = kept(writer.commit()?, ForkedCim::with_tree)?;
        steps.push(self.compare_one(&child)?);
        // A fork leaves the image that it was made from as it was.
        steps.push(self.compare_one(parents.nearest())?);
        Ok(())
    }

    fn compare_one(&self, layer: &ForkedCim) -> Result<String> {
        let image = ImageRef { container: layer.dir().path(), name: layer.name() };
        let view = layer.tree().map(|tree| View::of(tree)).ok_or_else(no_model)?;
        self.compare(&Mount::one(image, Default::default()), &view, layer.name())
    }

    fn block(
        &self,
        can: crate::caps::CanWriteBlocks,
        can_merge: crate::caps::CanMerge,
        steps: &mut Vec<String>,
    ) -> Result<()> {
        let options = ImportOptions::default();
        let sink = || self.sink(ImageTree::new(CimKind::Block));
        let mut writer = Import::<SingleFile>::base::<Unverified, _>(
            self.target("block-base", "layer.cim")?,
            sink(),
            can,
            options,
            &Silent,
        )?;
        base(&mut writer)?;
        let parents = Stack::of(kept(writer.commit()?, BlockCim::with_tree)?);
        let target = self.target("block-child", "layer.cim")?;
        let mut writer = Import::<SingleFile>::child(target, &parents, sink(), can, options, &Silent)?;
        child(&mut writer)?;
        writer.remove(&path(r"Files\gone")?)?;
        let stack = parents.with_nearest(kept(writer.commit()?, BlockCim::with_tree)?);

        let sources = AtLeastTwo::new(&stack).ok_or_else(no_model)?;
        let into = self.target("block-merged", "merged.cim")?;
        let (merged, _) =
            merge(into, sources, TableSink::new(self.api.clone()), (can_merge, can), None, &Silent)?;
        let trees: Option<Vec<_>> = stack.iter().map(|layer| layer.tree().map(|tree| &**tree)).collect();
        let view = model::merge(trees.ok_or_else(no_model)?)?;
        let arguments = merged.mount_arguments();
        let mut images = arguments.images.iter().map(|&(container, name)| ImageRef { container, name });
        let first = images.next().ok_or_else(no_model)?;
        let mount = Mount::merged(first, images, SingleFile::MOUNT);
        steps.push(self.compare(&mount, &view, merged.layer().name())?);
        Ok(())
    }

    fn sink(&self, tree: ImageTree) -> Sink {
        (ModelSink::on(tree, MemoryBlobs::default()), TableSink::new(self.api.clone()))
    }

    fn files(&self, layer: &str) -> LayerDir {
        LayerDir::new(Path::new(self.dir).join(layer))
    }

    fn target(&self, layer: &str, name: &str) -> Result<Target<SingleFile>> {
        let files = self.files(layer);
        std::fs::create_dir_all(files.path())
            .map_err(|error| Error::io("make a directory for a layer", error))?;
        let container = files.path().join("layer.vhd").display().to_string();
        Ok(Target::new(Container::new(container)?, CimName::new(name)?, files))
    }

    /// Mounts, walks, dismounts, compares.
    fn compare(&self, mount: &Mount<'_>, view: &View, name: &CimName) -> Result<String> {
        self.api.mount(VOLUME, mount).map_err(|error| error.context(format_args!("mount {name}")))?;
        let found = self.volumes.list(VOLUME);
        self.api.dismount(VOLUME).map_err(|error| error.context(format_args!("dismount {name}")))?;
        let (found, expected) = (found?, expected(view));
        let difference = difference(&expected, &found);
        if difference.is_empty() {
            return Ok(format!("{name}: {} paths as expected", expected.len()));
        }
        Err(Error::new(ErrorKind::FailedPrecondition, format!("{name} differs from the model:{difference}")))
    }
}

/// A layer with some of all that base layers have.
fn base<L, R: Role>(writer: &mut Writer<'_, L, R, Sink>) -> Result<()> {
    for dir in
        ["Files", r"Files\Windows", r"Files\Windows\System32", r"Files\Windows\System32\config", r"Files\dir"]
    {
        writer.directory(&path(dir)?, &meta(Attributes::DIRECTORY))?;
    }
    for hive in crate::hive::HIVES {
        file(writer, &format!(r"Files\Windows\System32\config\{}", hive.name), hive.name.as_bytes())?;
    }
    file(writer, r"Files\kept", b"kept")?;
    file(writer, r"Files\gone", b"gone")?;
    file(writer, r"Files\dir\Größe", b"names are compared without case")?;
    file(writer, r"Files\empty", b"")?;
    file(writer, r"Files\large", &[b'x'; 100_000])?;
    let mut stream = writer.stream(&path(r"Files\large")?, &StreamName::new("Zone.Identifier")?, 4)?;
    stream.push(b"zone")?;
    stream.finish()?;
    writer.hard_link(&path(r"Files\second name")?, &path(r"Files\kept")?)
}

/// A layer that changes some of it.
fn child<L, R: Role>(writer: &mut Writer<'_, L, R, Sink>) -> Result<()> {
    writer.directory(&path("Files")?, &meta(Attributes::DIRECTORY))?;
    writer.directory(&path(r"Files\new")?, &meta(Attributes::DIRECTORY))?;
    file(writer, r"Files\new\file", b"new")?;
    file(writer, r"Files\empty", b"not any more")?;
    writer.hard_link(&path(r"Files\third name")?, &path(r"Files\kept")?)
}

fn file<L, R: Role>(writer: &mut Writer<'_, L, R, Sink>, at: &str, bytes: &[u8]) -> Result<()> {
    let mut stream = writer.file(&path(at)?, &meta(Attributes::ARCHIVE), bytes.len() as u64)?;
    stream.push(bytes)?;
    stream.finish()
}

fn path(text: &str) -> Result<CimPath> {
    CimPath::new(text)
}

fn meta(attributes: Attributes) -> FileMeta {
    let time = FileTime(133_444_736_000_000_000);
    FileMeta { creation: time, write: time, change: time, access: time, ..FileMeta::new(attributes) }
}

/// The layer, with the tree that the model made of it.
fn kept<L>(committed: Committed<L, Sink>, with_tree: fn(L, Arc<ImageTree>) -> L) -> Result<L> {
    let (mut tree, blobs) = committed.sink.0.finish()?;
    tree.set_contents(Arc::new(blobs));
    Ok(with_tree(committed.layer, Arc::new(tree)))
}

fn expected(view: &View) -> Listing {
    let mut listing = Listing::new();
    for found in view.entries() {
        let content = match found.entry {
            EntryRef::Dir(_) => None,
            EntryRef::File(file, _) => file.main().sha256,
            _ => continue,
        };
        listing.insert(found.path, content);
    }
    listing
}

/// What is missing, what is too much, and what is other content: nothing when the two are the same.
fn difference(expected: &Listing, found: &Listing) -> String {
    let mut text = String::new();
    let mut say = |what: &str, path: &CimPath| text.push_str(&format!("\n  {what}: {path}"));
    for (path, content) in expected {
        match found.get(path) {
            None => say("missing", path),
            Some(found) if found != content => say("another content", path),
            Some(_) => {}
        }
    }
    found.keys().filter(|path| !expected.contains_key(path)).for_each(|path| say("too much", path));
    text
}

fn no_model() -> Error {
    Error::new(ErrorKind::FailedPrecondition, "the model has no image to compare with")
}

/// Runs the test with the CimFS of this machine, in `dir`, which is made when it is not there.
///
/// # Errors
/// [`ErrorKind::NotSupported`] anywhere but on Windows; those of [`self_test`].
pub fn self_test_here(dir: &Path) -> Result<Vec<String>> {
    let api = here::cimfs()?;
    std::fs::create_dir_all(dir).map_err(|error| Error::io("make the directory of the test", error))?;
    let dir = dir
        .to_str()
        .ok_or_else(|| Error::new(ErrorKind::InvalidArgument, "the directory is no Unicode text"))?;
    self_test(&api, &Capabilities::probe(), &HostVolumes, dir)
}

/// Volumes as the file system of Windows shows them.
struct HostVolumes;

impl Volumes for HostVolumes {
    fn list(&self, volume: Guid) -> Result<Listing> {
        let (root, mut listing) = (crate::identity::volume_path(volume), Listing::new());
        let mut open = vec![CimPath::root()];
        while let Some(dir) = open.pop() {
            let host = Path::new(&root).join(dir.to_string().trim_start_matches('\\'));
            for entry in
                std::fs::read_dir(host).map_err(|error| Error::io("list a mounted directory", error))?
            {
                let entry = entry.map_err(|error| Error::io("list a mounted directory", error))?;
                let name = entry.file_name();
                let Some(name) = name.to_str().filter(|name| *name != "System Volume Information") else {
                    continue;
                };
                let path = dir.join(name)?;
                let kind = entry.file_type().map_err(|error| Error::io("look at a mounted file", error))?;
                let content = if kind.is_dir() {
                    open.push(path.clone());
                    None
                } else {
                    let bytes = std::fs::read(entry.path());
                    let bytes = bytes.map_err(|error| Error::io("read a mounted file", error))?;
                    Some(Sha256::digest(bytes).into())
                };
                listing.insert(path, content);
            }
        }
        Ok(listing)
    }
}
