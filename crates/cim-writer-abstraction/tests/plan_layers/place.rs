//! A place for layers, and what their journals say.

use std::sync::Arc;

use cim_writer_abstraction::{
    Attributes, Capabilities, CimName, CimPath, FileMeta, Recorder,
    content::MemoryBlobs,
    op::CimKind,
    plan::{LayerDir, PlanOptions},
    typed::*,
};
use layer_model::{Result, Silent, Stack};

pub(super) type Sink = Recorder<Vec<u8>, MemoryBlobs>;
pub(super) type Block<R> = Writer<'static, BlockCim<SingleFile, Unverified>, R, Sink>;

pub(super) const HIVES: [&str; 5] = ["SYSTEM", "SOFTWARE", "SAM", "SECURITY", "DEFAULT"];

pub(super) fn path(text: &str) -> CimPath {
    CimPath::new(text).unwrap()
}

pub(super) fn name(text: &str) -> CimName {
    CimName::new(text).unwrap()
}

pub(super) fn dir_meta() -> FileMeta {
    FileMeta::new(Attributes::DIRECTORY)
}

pub(super) fn file<L, R: Role>(writer: &mut Writer<'_, L, R, Sink>, at: &str, bytes: &[u8]) -> Result<()> {
    let mut stream = writer.file(&path(at), &FileMeta::new(Attributes::ARCHIVE), bytes.len() as u64)?;
    stream.push(bytes)?;
    stream.finish()
}

/// The journal without what all lines of a kind have in common.
pub(super) fn lines(journal: &[u8]) -> Vec<String> {
    let text = str::from_utf8(journal).unwrap();
    text.lines()
        .map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            let text = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
            match line["op"].as_str().unwrap() {
                "create_image" => {
                    format!("create_image {} {} {}", text("name"), text("parent"), line["flags"])
                        .replace("  ", " ")
                }
                "create_file" => format!("create_file {} {} {}", text("path"), line["attrs"], line["size"]),
                "create_stream" => format!("create_stream {} {}", text("path"), line["size"]),
                "data" => format!("data {}", line["len"]),
                op @ ("hard_link" | "merge_link") => format!("{op} {} {}", text("path"), text("target")),
                op @ ("delete" | "tombstone" | "add_merged_hive" | "spool" | "add_source") => {
                    format!("{op} {}", text("path"))
                }
                "merge_hive" => format!("merge_hive {}", text("out")),
                "vhd_footer" => format!("vhd_footer {}", line["size"]),
                "sidecar" => format!("sidecar {}", text("name")),
                op => op.to_owned(),
            }
        })
        .collect()
}

/// A place for layers, and those made there.
pub(super) struct Place {
    pub(super) temp: tempfile::TempDir,
}

impl Place {
    pub(super) fn new() -> Self {
        Self { temp: tempfile::tempdir().unwrap() }
    }

    pub(super) fn files(&self, layer: &str) -> LayerDir {
        LayerDir::new(self.temp.path().join(layer))
    }

    pub(super) fn target(&self, layer: &str) -> Target<SingleFile> {
        let container = Container::new(format!(r"C:\s\{layer}\layer.vhd")).unwrap();
        Target::new(container, name("layer.cim"), self.files(layer))
    }

    pub(super) fn base(&self) -> Block<BaseRole> {
        let can = Capabilities::emulated().write_blocks().unwrap();
        let sink = Recorder::new(CimKind::Block, Vec::new(), MemoryBlobs::default());
        Import::<SingleFile>::base(self.target("base"), sink, can, ImportOptions::default(), &Silent).unwrap()
    }

    pub(super) fn child(&self, parents: &Stack<BlockCim<SingleFile, Unverified>>) -> Block<ChildRole> {
        self.child_with(parents, "child", PlanOptions::default())
    }

    pub(super) fn child_with(
        &self,
        parents: &Stack<BlockCim<SingleFile, Unverified>>,
        layer: &str,
        plan: PlanOptions<'static>,
    ) -> Block<ChildRole> {
        let can = Capabilities::emulated().write_blocks().unwrap();
        let sink = Recorder::new(CimKind::Block, Vec::new(), MemoryBlobs::default());
        let options = ImportOptions::default().plan(plan);
        Import::<SingleFile>::child(self.target(layer), parents, sink, can, options, &Silent).unwrap()
    }

    /// A base layer with hives, `Files\t` and `Files\y`.
    pub(super) fn parents(&self) -> Stack<BlockCim<SingleFile, Unverified>> {
        let mut writer = self.base();
        base_set(&mut writer, &HIVES).unwrap();
        file(&mut writer, r"Files\t", b"t").unwrap();
        file(&mut writer, r"Files\y", b"y").unwrap();
        let (layer, _) = kept(writer.commit().unwrap());
        Stack::of(layer)
    }
}

pub(super) fn base_set<L, R: Role>(writer: &mut Writer<'_, L, R, Sink>, hives: &[&str]) -> Result<()> {
    for dir in ["Files", r"Files\Windows", r"Files\Windows\System32", r"Files\Windows\System32\config"] {
        writer.directory(&path(dir), &dir_meta())?;
    }
    hives.iter().try_for_each(|hive| file(writer, &format!(r"Files\Windows\System32\config\{hive}"), b"h"))
}

/// The layer with its tree, and the lines of its journal.
pub(super) fn kept<I: Integrity>(
    committed: Committed<BlockCim<SingleFile, I>, Sink>,
) -> (BlockCim<SingleFile, I>, Vec<String>) {
    let recorded = committed.sink.finish().unwrap();
    let mut tree = recorded.tree;
    tree.set_contents(Arc::new(recorded.blobs));
    (committed.layer.with_tree(Arc::new(tree)), lines(&recorded.journal))
}

pub(super) fn committed(writer: Block<ChildRole>) -> Vec<String> {
    kept(writer.commit().unwrap()).1
}
