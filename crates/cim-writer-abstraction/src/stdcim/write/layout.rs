//! The metadata of an image as bytes: link tables, buffers, file tables, headers.

use std::collections::HashMap;

use layer_model::{Error, ErrorKind, Result};
use zerocopy::{
    IntoBytes,
    little_endian::{U16, U32, U64},
};

use super::{
    super::raw::{
        self, CommonHeader, FILES_PER_TABLE, FileRecord, FileSystem, FileTableEntry, ImageHeader,
        LinkTableHeader, OBJECT_ALIGN, RegionHeader, RegionOffset, RegionSet, StreamRecord,
    },
    Major,
    tree::{Buffer, Node, NodeId, Tree},
};

/// The region of an image that its metadata is in.
pub(super) struct Metadata {
    /// The whole region file.
    pub(super) bytes: Vec<u8>,
    /// Where in there the image begins.
    pub(super) file_system: RegionOffset,
}

/// A region file that objects are appended to.
struct Heap {
    region: u16,
    bytes: Vec<u8>,
    /// Buffers that many files share.
    known: HashMap<Box<[u8]>, RegionOffset>,
}

/// The order of the files, and what they are numbered by it.
struct Numbers {
    order: Vec<NodeId>,
    /// Of each node its number, 0 for what is not reachable.
    ids: Vec<u32>,
    /// Of each node the number of the directory that its first name is in.
    parents: Vec<u32>,
}

impl Metadata {
    /// Lays the tree out in region `region`. Without an upcase table to inherit, it gets one.
    pub(super) fn new(tree: &Tree, major: Major, region: u16, upcase: Option<RegionOffset>) -> Result<Self> {
        let header = region_header(major, 0, raw::REGION_METADATA);
        let mut heap = Heap { region, bytes: header.as_bytes().to_vec(), known: HashMap::new() };
        let numbers = Numbers::of(tree)?;
        let size = usize::from(major.record_size());
        let mut records = Vec::with_capacity(numbers.order.len() * size);
        for id in &numbers.order {
            let record = heap.add_file(&tree.nodes[*id], &numbers, numbers.parents[*id])?;
            records.extend_from_slice(&record.as_bytes()[..size]);
        }
        let mut tables = Vec::new();
        for table in records.chunks(FILES_PER_TABLE as usize * size) {
            tables.push(FileTableEntry {
                table: heap.add(table),
                count: ((table.len() / size) as u16).into(), // at most 1024
                record_size: major.record_size().into(),
                reserved: U32::ZERO,
            });
        }
        let file_tables = heap.add(tables.as_bytes());
        let upcase = upcase.unwrap_or_else(|| {
            let units: Vec<U16> = tree.upcase().iter().map(|unit| U16::new(*unit)).collect();
            heap.add(units.as_bytes())
        });
        let file_system = FileSystem {
            upcase,
            file_tables,
            file_table_count: length(tables.len(), "the directory of file tables")?,
            root: numbers.ids[Tree::ROOT].into(),
        };
        let file_system = heap.add(file_system.as_bytes());
        Ok(Self { bytes: heap.bytes, file_system })
    }
}

impl Numbers {
    /// Numbers files as a walk meets them: a directory before what is in it, siblings by their upper-cased names.
    fn of(tree: &Tree) -> Result<Self> {
        let none = vec![0; tree.nodes.len()];
        let mut numbers = Self { order: Vec::new(), ids: none.clone(), parents: none };
        // The root is in itself.
        let mut open = vec![(Tree::ROOT, 1)];
        while let Some((node, parent)) = open.pop() {
            if numbers.ids[node] != 0 {
                continue;
            }
            numbers.order.push(node);
            let id = u32::try_from(numbers.order.len()).map_err(|_| too_long("the list of files"))?;
            (numbers.ids[node], numbers.parents[node]) = (id, parent);
            if let Some(children) = &tree.nodes[node].children {
                open.extend(children.values().rev().map(|child| (child.node, id)));
            }
        }
        Ok(numbers)
    }
}

impl Heap {
    fn add(&mut self, object: &[u8]) -> RegionOffset {
        self.bytes.resize(self.bytes.len().next_multiple_of(OBJECT_ALIGN as usize), 0);
        let at = RegionOffset::new(self.region, self.bytes.len() as u64);
        self.bytes.extend_from_slice(object);
        at
    }

    fn add_shared(&mut self, object: Vec<u8>) -> RegionOffset {
        if let Some(at) = self.known.get(&*object) {
            return *at;
        }
        let at = self.add(&object);
        self.known.insert(object.into(), at);
        at
    }

    fn add_buffer(&mut self, buffer: &Buffer, counted: bool) -> RegionOffset {
        match buffer {
            Buffer::At(at) => *at,
            Buffer::New(bytes) if counted => {
                let count = bytes.len() as u16; // checked when the file was made
                self.add_shared([&count.to_le_bytes(), &**bytes].concat())
            }
            Buffer::New(bytes) => self.add_shared(bytes.to_vec()),
        }
    }

    /// Adds everything that a file has, and returns its record.
    fn add_file(&mut self, node: &Node, numbers: &Numbers, parent: u32) -> Result<FileRecord> {
        let mut record = node.record;
        if let Some(children) = &node.children {
            let links = children.values().map(|child| (&*child.name, U32::new(numbers.ids[child.node])));
            record.stream = match children.len() {
                0 => StreamRecord::new(RegionOffset::NULL, 0, raw::STREAM_LINK_TABLE, false),
                _ => {
                    let table = link_table(links)?;
                    StreamRecord::new(self.add(&table), table.len() as u64, raw::STREAM_LINK_TABLE, false)
                }
            };
        }
        record.security = self.add_buffer(&node.security, true);
        record.ea = self.add_buffer(&node.ea, false);
        record.reparse = self.add_buffer(&node.reparse, true);
        // Streams without data point to something, as older readers want it.
        let anything = record.security;
        let somewhere = |mut stream: StreamRecord| {
            if stream.data.is_null() {
                stream.data = anything;
            }
            stream
        };
        if node.children.is_none() {
            record.stream = somewhere(record.stream);
        }
        record.streams = match node.streams.is_empty() {
            true => RegionOffset::NULL,
            false => {
                let links = node.streams.values().map(|stream| (&*stream.name, somewhere(stream.record)));
                self.add(&link_table(links)?)
            }
        };
        record.parent = parent.into();
        record.base_region = U16::ZERO;
        record.unknown = U64::ZERO;
        Ok(record)
    }
}

/// A link table of names that ascend.
fn link_table<'a, T: IntoBytes + zerocopy::Immutable>(
    links: impl ExactSizeIterator<Item = (&'a [u16], T)>,
) -> Result<Vec<u8>> {
    let count = links.len();
    let mut values = Vec::with_capacity(count * size_of::<T>());
    let mut offsets: Vec<U32> = Vec::with_capacity(count);
    let mut names: Vec<u8> = Vec::new();
    let begin = size_of::<LinkTableHeader>() + count * (size_of::<T>() + size_of::<U32>());
    for (name, value) in links {
        values.extend_from_slice(value.as_bytes());
        offsets.push(length(begin + names.len(), "a directory")?);
        names.extend((name.len() as u16).to_le_bytes()); // at most 255 units
        names.extend(name.iter().flat_map(|unit| unit.to_le_bytes()));
    }
    let header = LinkTableHeader {
        length: length(begin + names.len(), "a directory")?,
        count: length(count, "a directory")?,
    };
    Ok([header.as_bytes(), &values, offsets.as_bytes(), &names].concat())
}

fn length(length: usize, what: &str) -> Result<U32> {
    u32::try_from(length).map(U32::new).map_err(|_| too_long(what))
}

fn too_long(what: &str) -> Error {
    Error::new(
        ErrorKind::LimitExceeded { limit: "32-bit length" },
        format!("{what} is too long for an image"),
    )
}

fn common(major: Major, file_type: u8, header_length: usize) -> CommonHeader {
    CommonHeader {
        magic: raw::MAGIC,
        header_length: (header_length as u32).into(), // of a structure above
        file_type,
        reserved: [0; 3],
        major: major.number().into(),
        minor: U32::ZERO,
        reserved2: U64::ZERO,
    }
}

/// The header of region file `index` of its set.
pub(super) fn region_header(major: Major, index: u16, region_type: u8) -> RegionHeader {
    let common = common(major, raw::FILE_TYPE_REGION, size_of::<RegionHeader>());
    RegionHeader { common, index: index.into(), region_type, reserved: [0; 5] }
}

/// The file-system file.
pub(super) fn image_file(
    major: Major,
    parents: &[RegionSet],
    own: RegionSet,
    file_system: RegionOffset,
) -> Result<Vec<u8>> {
    let parent_count = u16::try_from(parents.len()).map_err(|_| too_long("the list of parents"))?;
    let header = ImageHeader {
        common: common(major, raw::FILE_TYPE_IMAGE, size_of::<ImageHeader>()),
        regions: own,
        file_system,
        reserved: [0; 6],
        parent_count: parent_count.into(),
    };
    Ok([header.as_bytes(), parents.as_bytes()].concat())
}
