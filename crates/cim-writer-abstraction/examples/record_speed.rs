//! How fast an import is recorded: journal, content and tree of a layer that is made up.
//!
//! ```sh
//! cargo run --release -p cim-writer-abstraction --example record_speed -- DIR [FILES] [MEGABYTES]
//! ```
//!
//! DIR is where the pack and the journal go, and are removed again. The sizes of the files are spread as those of a
//! real base image are: most are small, a few have most of the bytes. Beside the whole it prints what its parts take by
//! themselves.
#![allow(clippy::print_stdout, reason = "that is what it is for")]

use std::{env, fs::File, io, path::Path, time::Instant};

use cim_writer_abstraction::{
    Attributes, CimKind, CimName, CimOp, CimPath, CimSink, FileMeta, FileTime, Recorder,
    content::{BlobSink, HashOnly, PackWriter},
    journal::JournalSink,
    model::ModelSink,
    op::CreateFlags,
};
use layer_model::{Error, ErrorKind, Result};

/// A layer: its directories and files, and bytes to fill them with.
struct Layer {
    dirs: Vec<CimPath>,
    files: Vec<(CimPath, usize)>,
    bytes: Vec<u8>,
}

impl Layer {
    fn make_up(files: usize, total: usize) -> Result<Self> {
        let mut state = 1_u64;
        let mut random = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let (mut dirs, mut weights) = (vec![CimPath::new("Files")?], Vec::new());
        for n in 0..files / 12 {
            let parent = &dirs[random() as usize % dirs.len().min(200)];
            dirs.push(parent.join(format!("amd64_component_{n:05}"))?);
        }
        for n in 0..files {
            let parent = &dirs[n / 12 % dirs.len()];
            // Each step down halves the number of files and multiplies their size.
            let weight = 1_u64 << (2 * (random() | 1 << 20).trailing_zeros().min(9));
            weights.push((parent.join(format!("Component.{n:06}.dll"))?, weight + random() % weight));
        }
        let sum: u64 = weights.iter().map(|(_, weight)| weight).sum();
        let scale = total as f64 / sum as f64;
        let files: Vec<_> =
            weights.into_iter().map(|(path, weight)| (path, (weight as f64 * scale) as usize)).collect();
        let largest = files.iter().map(|(_, size)| *size).max().unwrap_or(0);
        let bytes = (0..largest / 8 + 100_000).flat_map(|_| random().to_le_bytes()).collect();
        Ok(Self { dirs, files, bytes })
    }

    fn total(&self) -> usize {
        self.files.iter().map(|(_, size)| size).sum()
    }

    /// Does the operations of the layer. Every file has other bytes.
    fn feed(&self, sink: &mut dyn CimSink) -> Result<()> {
        let name = CimName::new("layer.cim")?;
        let flags = CreateFlags::SINGLE_FILE | CreateFlags::CONSISTENT;
        let container = "C:\\layers\\1\\layer.vhd";
        sink.op(&CimOp::CreateImage { kind: CimKind::Block, container, name: &name, parent: None, flags })?;
        let time = FileTime(133_444_736_000_000_000);
        let meta = |attributes| FileMeta {
            creation: time,
            write: time,
            change: time,
            access: time,
            security: [1, 0, 4, 0x80].into_iter().chain([7; 120]).collect(),
            ..FileMeta::new(attributes)
        };
        let (dir, file) = (meta(Attributes::DIRECTORY), meta(Attributes::ARCHIVE));
        for path in &self.dirs {
            sink.op(&CimOp::CreateFile { path, meta: &dir, size: 0 })?;
            sink.op(&CimOp::EndStream)?;
        }
        for (n, (path, size)) in self.files.iter().enumerate() {
            sink.op(&CimOp::CreateFile { path, meta: &file, size: *size as u64 })?;
            let start = n * 8 % (self.bytes.len() - size);
            // As from an archive that is read through a buffer.
            for piece in self.bytes[start..start + size].chunks(128 * 1024) {
                sink.write(piece)?;
            }
            sink.op(&CimOp::EndStream)?;
        }
        sink.op(&CimOp::Commit)?;
        sink.op(&CimOp::Close)
    }
}

fn main() {
    if let Err(error) = run() {
        println!("{}", error.chain());
        std::process::exit(1);
    }
}

fn run() -> Result<()> {
    let mut args = env::args().skip(1);
    let Some(dir) = args.next() else {
        return Err(Error::new(ErrorKind::InvalidArgument, "usage: record_speed DIR [FILES] [MEGABYTES]"));
    };
    let mut number = |default| args.next().and_then(|arg| arg.parse().ok()).unwrap_or(default);
    let layer = Layer::make_up(number(17_000), number(500) * 1_000_000)?;
    println!(
        "{} files, {} directories, {} MB",
        layer.files.len(),
        layer.dirs.len(),
        layer.total() / 1_000_000
    );

    let dir = Path::new(&dir);
    measure("operations without bytes, tree", &layer, || {
        let small = Layer {
            dirs: layer.dirs.clone(),
            files: layer.files.iter().map(|(path, _)| (path.clone(), 0)).collect(),
            bytes: vec![0; 8_000_000],
        };
        small.feed(&mut ModelSink::new(CimKind::Block, HashOnly::default()))
    })?;
    measure("hash", &layer, || {
        let mut hash = HashOnly::default();
        for (_, size) in &layer.files {
            hash.begin(*size as u64)?;
            hash.write(&layer.bytes[..*size])?;
            hash.end()?;
        }
        Ok(())
    })?;
    measure("journal", &layer, || {
        let mut sink = JournalSink::new(io::sink());
        layer.feed(&mut sink)?;
        sink.finish().map(drop)
    })?;
    for round in 0..3 {
        let (pack, journal) = (dir.join(format!("pack{round}")), dir.join(format!("journal{round}")));
        measure("journal, content and tree", &layer, || {
            let file = File::create_new(&journal).map_err(|error| Error::io("make the journal", error))?;
            let mut sink = Recorder::new(CimKind::Block, file, PackWriter::create(&pack)?);
            layer.feed(&mut sink)?;
            sink.finish()?.blobs.finish(false).map(drop)
        })?;
        let removed = std::fs::remove_file(&journal).and_then(|()| std::fs::remove_dir_all(&pack));
        removed.map_err(|error| Error::io("remove what was made", error))?;
    }
    Ok(())
}

fn measure(what: &str, layer: &Layer, work: impl FnOnce() -> Result<()>) -> Result<()> {
    let start = Instant::now();
    work()?;
    let took = start.elapsed();
    let rate = layer.total() as f64 / 1e6 / took.as_secs_f64();
    println!("{what:32} {:7.1} ms {rate:8.0} MB/s", took.as_secs_f64() * 1e3);
    Ok(())
}
