//! What the tests share.
#![allow(dead_code, reason = "every test program uses a part of it")]

#[cfg(target_os = "linux")]
pub(crate) mod disk;
#[cfg(target_os = "linux")]
pub(crate) mod random;

use std::sync::Mutex;

use layer_model::{
    Base, LayerSource, LayerTree, Monitor, Result, Stack, Warning, WarningKind,
    testing::{MemoryChanges, MemoryLayer},
};
use overlay_diff::{DiffReport, DiffSource, TreeDiffer, TreeOptions, UpperDiffer, UpperOptions};

/// A monitor that keeps the warnings.
#[derive(Default)]
pub(crate) struct Heard(Mutex<Vec<(WarningKind, String)>>);

impl Monitor for Heard {
    fn warn(&self, warning: &Warning<'_>) {
        self.0
            .lock()
            .expect("no test panics while it warns")
            .push((warning.kind, warning.path.display().to_string()));
    }
}

impl Heard {
    pub(crate) fn warnings(&self) -> Vec<(WarningKind, String)> {
        self.0.lock().expect("no test panics while it warns").clone()
    }
}

/// What one diff gave.
pub(crate) struct Outcome {
    pub(crate) changes: MemoryChanges,
    pub(crate) report: DiffReport,
    pub(crate) warnings: Vec<(WarningKind, String)>,
}

impl Outcome {
    /// Reads a source to its end.
    pub(crate) fn of(source: &mut DiffSource<'_>, heard: &Heard) -> Result<Self> {
        let changes = MemoryChanges::collect(source)?;
        assert!(source.next_change()?.is_none(), "a source that ended stays so");
        Ok(Self { changes, report: source.report().clone(), warnings: heard.warnings() })
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.changes.lines()
    }
}

pub(crate) fn upper(
    options: UpperOptions,
    base: Base<'_, MemoryLayer>,
    upper: &dyn LayerTree,
) -> Result<Outcome> {
    let heard = Heard::default();
    let mut source = UpperDiffer::new(options).changes_of(upper, base, &heard)?;
    Outcome::of(&mut source, &heard)
}

pub(crate) fn upper_over(lower: &MemoryLayer, layer: &MemoryLayer) -> Vec<String> {
    let stack = Stack::of(lower.clone());
    upper(UpperOptions::new(), Base::Layers(&stack), layer).expect("changes").lines()
}

pub(crate) fn trees(
    options: TreeOptions,
    old: Option<&dyn LayerTree>,
    new: &dyn LayerTree,
) -> Result<Outcome> {
    let heard = Heard::default();
    let mut source = TreeDiffer::new(options).between(old, new, &heard)?;
    Outcome::of(&mut source, &heard)
}

/// A layer whose inodes are none of the base's.
pub(crate) fn layer() -> MemoryLayer {
    MemoryLayer::new().on_device(1)
}
