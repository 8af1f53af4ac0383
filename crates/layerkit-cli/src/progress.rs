//! Progress on a terminal, warnings.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use layerkit::{LayerPath, Monitor, Warning, model::path::Printable};
use serde_json::{Value, json};

/// How many warnings are kept with their text; more are only counted.
const WARNINGS_KEPT: usize = 100;

/// A [`Monitor`] that draws one bar on standard error when that is a terminal, and keeps warnings.
pub(crate) struct Watch {
    bar: ProgressBar,
    entries: AtomicU64,
    warnings: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    count: u64,
    first: Vec<(String, Value)>,
}

impl Watch {
    /// Watches `what` ("unpack"); draws nothing when `quiet`.
    pub(crate) fn new(what: &'static str, quiet: bool) -> Self {
        let target =
            if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr_with_hz(10) };
        let bar = ProgressBar::with_draw_target(None, target).with_prefix(what);
        bar.set_style(style(false));
        Self { bar, entries: AtomicU64::new(0), warnings: Mutex::default() }
    }

    /// Says how many bytes there are to do.
    pub(crate) fn set_total(&self, bytes: u64) {
        self.bar.set_style(style(true));
        self.bar.set_length(bytes);
    }

    /// Takes the bar away, and gives the warnings as JSON; prints them on standard error unless `quiet`.
    pub(crate) fn finish(&self, quiet: bool) -> Value {
        self.bar.finish_and_clear();
        let kept = std::mem::take(&mut *self.warnings.lock().unwrap_or_else(PoisonError::into_inner));
        if !quiet {
            for (line, _) in &kept.first {
                eprintln!("layerkit: warning: {line}");
            }
            let more = kept.count - kept.first.len() as u64;
            if more > 0 {
                eprintln!("layerkit: warning: {more} more warnings");
            }
        }
        json!({ "count": kept.count, "first": kept.first.into_iter().map(|(_, v)| v).collect::<Vec<_>>() })
    }
}

fn style(known_total: bool) -> ProgressStyle {
    let template = if known_total {
        "{prefix} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {wide_msg}"
    } else {
        "{prefix} {spinner} {bytes} {bytes_per_sec} {wide_msg}"
    };
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}

impl Monitor for Watch {
    fn bytes(&self, n: u64) {
        self.bar.inc(n);
    }

    fn entry(&self, path: LayerPath<'_>) {
        // A message is only worth its formatting now and then.
        if self.entries.fetch_add(1, Ordering::Relaxed).is_multiple_of(256) && !self.bar.is_hidden() {
            self.bar.set_message(path.display().to_string());
        }
    }

    fn warn(&self, warning: &Warning<'_>) {
        let mut kept = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        kept.count += 1;
        if kept.first.len() < WARNINGS_KEPT {
            let value = json!({
                "kind": warning.kind.name(),
                "path": warning.path.display().to_string(),
                "detail": Printable(warning.detail).to_string(),
            });
            kept.first.push((warning.to_string(), value));
        }
    }
}
