//! Checking a whole image: everything that is wrong with it, with offsets.
//!
//! Directories first, level by level; then every inode once, in the order of the image; then what can only be
//! seen when all is known: overlaps, link counts, totals. Each step is spread over threads, and the report does
//! not depend on how many. Memory is about 100 bytes an inode and 16 bytes for each piece of data.

mod inodes;
mod ranges;
mod tree;

use std::{ops::Range, sync::Mutex};

use crate::{
    error::{Error, ErrorKind, Result},
    raw::{device, superblock},
    read::Image,
    types::Nid,
};

/// How to check an image.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CheckOptions {
    jobs: usize,
    unused_space: bool,
    max_findings: usize,
}

impl Default for CheckOptions {
    fn default() -> Self {
        Self { jobs: 1, unused_space: true, max_findings: 10_000 }
    }
}

impl CheckOptions {
    /// One thread, everything, up to 10,000 findings.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many threads work at most.
    #[must_use]
    pub fn jobs(self, jobs: usize) -> Self {
        Self { jobs: jobs.max(1), ..self }
    }

    /// Whether bytes that nothing refers to are read, and have to be zero.
    #[must_use]
    pub fn unused_space(self, unused_space: bool) -> Self {
        Self { unused_space, ..self }
    }

    /// How many findings are kept; more are counted.
    #[must_use]
    pub fn max_findings(self, max_findings: usize) -> Self {
        Self { max_findings, ..self }
    }
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Severity {
    /// Readers cope with it.
    Warning,
    /// Something cannot be read, or not be trusted.
    Error,
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// The structure concerned.
    pub structure: &'static str,
    /// Where it is, in bytes.
    pub offset: u64,
    /// The inode concerned.
    pub nid: Option<Nid>,
    /// What is wrong.
    pub message: String,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", if self.severity == Severity::Error { "error" } else { "warning" })?;
        write!(f, ": {}: {} (offset {:#x}", self.structure, self.message, self.offset)?;
        match self.nid {
            Some(nid) => write!(f, ", nid {nid})"),
            None => write!(f, ")"),
        }
    }
}

/// What a check found.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct CheckReport {
    /// What is wrong, by offset.
    pub findings: Vec<Finding>,
    /// How many findings there were beyond the bound.
    pub more: u64,
    /// How many inodes names lead to.
    pub inodes: u64,
    /// How many of them are directories.
    pub directories: u64,
    /// How many names there are.
    pub entries: u64,
    /// How many files have compressed content, which was not looked at.
    pub compressed: u64,
}

impl CheckReport {
    /// Whether there is no finding worse than a warning.
    pub fn is_sound(&self) -> bool {
        self.more == 0 && self.findings.iter().all(|finding| finding.severity == Severity::Warning)
    }
}

/// Findings while they come in.
struct Findings {
    kept: Vec<Finding>,
    more: u64,
    most: usize,
}

/// What the parts of a check share.
struct Check<'a> {
    image: &'a Image,
    jobs: usize,
    findings: Mutex<Findings>,
}

impl Check<'_> {
    fn report(
        &self,
        severity: Severity,
        structure: &'static str,
        offset: u64,
        nid: Option<Nid>,
        message: String,
    ) {
        let mut findings = self.findings.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        findings.kept.push(Finding { severity, structure, offset, nid, message });
        // Which ones are dropped must not depend on threads: the first by offset stay.
        if findings.kept.len() >= findings.most.saturating_mul(2).max(16) {
            findings.settle();
        }
    }

    fn warn(&self, structure: &'static str, offset: u64, nid: Option<Nid>, message: impl Into<String>) {
        self.report(Severity::Warning, structure, offset, nid, message.into());
    }

    fn error(&self, structure: &'static str, offset: u64, nid: Option<Nid>, message: impl Into<String>) {
        self.report(Severity::Error, structure, offset, nid, message.into());
    }

    /// Notes an error of the reader, unless it is one of the system.
    fn note(&self, nid: Nid, error: Error) -> Result<()> {
        match error.kind() {
            ErrorKind::Io(_) => Err(error),
            _ => {
                self.error(error.structure(), error.offset().unwrap_or(0), Some(nid), error.message());
                Ok(())
            }
        }
    }

    /// Runs `work` on parts of `items`, in as many threads as allowed; results in the order of the items.
    fn spread<T: Sync, R: Send>(
        &self,
        items: &[T],
        work: impl Fn(&[T]) -> Result<R> + Sync,
    ) -> Result<Vec<R>> {
        let part = items.len().div_ceil(self.jobs).max(256);
        if items.len() <= part {
            return Ok(vec![work(items)?]);
        }
        std::thread::scope(|scope| {
            let threads: Vec<_> = items.chunks(part).map(|part| scope.spawn(|| work(part))).collect();
            let results = threads.into_iter().map(|thread| match thread.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            });
            results.collect()
        })
    }
}

impl Findings {
    fn settle(&mut self) {
        self.kept.sort_by(|a, b| {
            (a.offset, a.nid, a.structure, &a.message).cmp(&(b.offset, b.nid, b.structure, &b.message))
        });
        self.more += self.kept.len().saturating_sub(self.most) as u64;
        self.kept.truncate(self.most);
    }
}

impl Image {
    /// Checks the whole image.
    ///
    /// Open it leniently to get the findings that would keep it from being opened otherwise.
    ///
    /// # Errors
    /// Only those of reading, and limits: what is wrong with the image is in the report.
    pub fn check(&self, options: &CheckOptions) -> Result<CheckReport> {
        let findings = Findings { kept: Vec::new(), more: 0, most: options.max_findings };
        let check = Check { image: self, jobs: options.jobs, findings: Mutex::new(findings) };
        let tree = check.tree()?;
        let unique = inodes::unique(&tree);
        let mut report = CheckReport {
            inodes: unique.len() as u64,
            directories: tree.directories.len() as u64,
            entries: tree.links.len() as u64,
            ..CheckReport::default()
        };
        let used = check.inodes(&unique, &mut report)?;
        check.superblock(&report);
        // The data of compressed files is not known.
        if options.unused_space && report.compressed == 0 {
            check.unused_space(&used)?;
        }
        let mut findings = check.findings.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        findings.settle();
        (report.findings, report.more) = (findings.kept, findings.more);
        Ok(report)
    }
}

impl Check<'_> {
    fn superblock(&self, report: &CheckReport) {
        let sb = self.image.superblock();
        let at = superblock::OFFSET;
        if sb.blocks > self.image.size().div_ceil(sb.block_size()) {
            self.warn("superblock", at + 36, None, format!("there are not {} blocks", sb.blocks));
        }
        let hidden = u64::from(sb.packed.is_some()) + u64::from(sb.metabox.is_some());
        if sb.inodes != report.inodes + hidden {
            let message =
                format!("{} inodes are announced, {} were found", sb.inodes, report.inodes + hidden);
            self.warn("superblock", at + 16, None, message);
        }
    }

    /// What belongs to the image as a whole.
    fn fixed_ranges(&self) -> Vec<Range<u64>> {
        let sb = self.image.superblock();
        let devices = self.image.devices().len() as u64 * device::SLOT_SIZE;
        let mut ranges: Vec<_> = [(superblock::OFFSET, sb.size), (sb.device_table, devices)]
            .into_iter()
            .filter(|(_, len)| *len > 0)
            .map(|(start, len)| start..start + len)
            .collect();
        ranges.extend(self.image.prefix_table().map(|(start, end)| start..end));
        ranges
    }
}
