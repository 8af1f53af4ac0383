//! What the tests share.
#![allow(dead_code, reason = "every test program uses a part of it")]

use std::sync::Mutex;

use layer_model::{
    Base, LayerSource, LayerTree, Monitor, Result, Stack, Warning, WarningKind,
    testing::{MemoryChanges, MemoryLayer},
};
use overlay_diff::{DiffReport, TreeDiffer, TreeOptions, UpperDiffer, UpperOptions};

/// A monitor that keeps the warnings.
#[derive(Default)]
pub(crate) struct Heard(Mutex<Vec<(WarningKind, String)>>);

impl Monitor for Heard {
    fn warn(&self, warning: &Warning<'_>) {
        self.0.lock().unwrap().push((warning.kind, warning.path.display().to_string()));
    }
}

impl Heard {
    pub(crate) fn warnings(&self) -> Vec<(WarningKind, String)> {
        self.0.lock().unwrap().clone()
    }
}

/// What one diff gave.
pub(crate) struct Outcome {
    pub(crate) changes: MemoryChanges,
    pub(crate) report: DiffReport,
    pub(crate) warnings: Vec<(WarningKind, String)>,
}

impl Outcome {
    pub(crate) fn lines(&self) -> Vec<String> {
        self.changes.lines()
    }
}

pub(crate) fn upper(options: UpperOptions, base: Base<'_, MemoryLayer>, upper: &dyn LayerTree) -> Result<Outcome> {
    let heard = Heard::default();
    let mut source = UpperDiffer::new(options).changes_of(upper, base, &heard)?;
    let changes = MemoryChanges::collect(&mut source)?;
    assert!(source.next_change()?.is_none(), "a source that ended stays so");
    Ok(Outcome { changes, report: source.report().clone(), warnings: heard.warnings() })
}

pub(crate) fn upper_over(lower: &MemoryLayer, layer: &MemoryLayer) -> Vec<String> {
    let stack = Stack::of(lower.clone());
    upper(UpperOptions::new(), Base::Layers(&stack), layer).unwrap().lines()
}

pub(crate) fn trees(options: TreeOptions, old: Option<&dyn LayerTree>, new: &dyn LayerTree) -> Result<Outcome> {
    let heard = Heard::default();
    let mut source = TreeDiffer::new(options).between(old, new, &heard)?;
    let changes = MemoryChanges::collect(&mut source)?;
    Ok(Outcome { changes, report: source.report().clone(), warnings: heard.warnings() })
}

/// A layer whose inodes are none of the base's.
pub(crate) fn layer() -> MemoryLayer {
    MemoryLayer::new().on_device(1)
}
