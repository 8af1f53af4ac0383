//! Windows container layers in Composite Images (CIMs), with parents as typed values.
//!
//! A CIM is a read-only file system image that the CimFS driver of Windows mounts. Container layers live in
//! *forked* CIMs, which share data with the parent that they were made from, or in *block* CIMs, each in a container
//! of its own and merged when they are mounted. The Windows API that makes them takes paths and flags, and most of
//! what can be done wrong with it is found out at run time, or never. Here the same operations are typed, written to
//! any [`CimSink`], and checked on every platform:
//!
//! | module | holds |
//! |---|---|
//! | [`caps`] | [`Capabilities`]: what the machine's CimFS can do, as tokens that constructors take |
//! | [`path`] | [`CimPath`], [`CimName`], [`StreamName`]: names that Windows takes, compared as it does |
//! | [`metadata`] | [`FileMeta`]: attributes, times, security descriptor, extended attributes, reparse data |
//! | [`op`] | [`CimOp`] and [`CimSink`]: the operation model, one value an operation |
//! | [`hive`] | the registry hives of a layer, and who merges them |
//! | [`typed`] | layers and their parents as typed handles, and how they are written and merged |
//! | [`descriptor`] | what is written down about a layer |
//! | [`plan`] | [`Planner`](plan::Planner): from what a layer says to operations |
//! | [`event`] | [`LayerEvent`]: what a layer says about one path |
//! | [`wcow`] | [`WcowSource`]: events from the changes of a layer, and back |
//! | [`guid`] | [`Guid`], as text and in both byte orders |
//! | [`ea`], [`reparse`] | extended attributes and links, as the API takes them |
//! | [`identity`] | the volume that a container's layers are mounted as |
//! | [`location`], [`mount`] | where CIMs are, and what containerd's mounts say about them |
//! | [`backup`] | files with everything about them as one stream |
//! | `emu` | with the feature `emulator`: the functions of CimFS, which keep images in memory |
//! | [`table`] | the Win32 interface: a table of functions, and a sink over it |
//! | `testing` | with the feature `testing`: the suite that every sink should pass |
//! | `windows` | on Windows: its DLLs, loaded into the table |
//! | [`validate`] | [`Validate`]: operations checked before any sink gets them |
//! | [`boot`] | the CIM that a utility VM boots from |
//! | [`legacy`] | layer directories of older tools, read and written |
//! | [`vhd`] | the footer that makes a container a disk |
//! | [`security`] | [`SecurityDescriptor`]: checked, and from and to SDDL |
//! | [`content`] | where the bytes of streams go: blobs, named by their SHA-256 |
//! | [`journal`] | operations as lines of JSON, and back |
//! | [`model`] | [`ImageTree`](model::ImageTree): what is in an image, and what merging makes of it |
//! | [`recorded`] | layers as directories with their journals, on any platform |
//! | [`record`] | [`Recorder`]: journal, content and tree of an import |
//! | [`here`] | the CimFS of the machine at hand |
//! | [`mod@self_test`] | CIMs made, mounted, walked and compared on the machine at hand |
//! | `stdcim` | standard CIMs on disk (feature `ondisk`) |
//!
//! It refuses to guess what is not public: block CIMs are written by Windows alone, and digests of verified CIMs come
//! from Windows alone. It knows no tar and no store: layers come as the changes of `layer-model`.
#![deny(unsafe_code)]

pub mod backup;
mod base64;
pub mod boot;
pub mod caps;
pub mod content;
pub mod descriptor;
pub mod ea;
#[cfg(feature = "emulator")]
pub mod emu;
pub mod event;
pub mod guid;
pub mod here;
pub mod hive;
pub mod identity;
pub mod journal;
mod le;
pub mod legacy;
pub mod location;
pub mod metadata;
pub mod model;
pub mod mount;
pub mod op;
pub mod path;
pub mod plan;
pub mod profile;
pub mod record;
pub mod recorded;
pub mod reparse;
pub mod security;
pub mod self_test;
#[cfg(feature = "ondisk")]
pub mod stdcim;
pub mod table;
#[cfg(feature = "testing")]
pub mod testing;
pub mod typed;
pub mod validate;
pub mod vhd;
pub mod wcow;
#[cfg(windows)]
pub mod windows;

pub use caps::Capabilities;
pub use event::LayerEvent;
pub use guid::Guid;
pub use metadata::{Attributes, FileMeta, FileTime};
pub use op::{CimKind, CimOp, CimSink};
pub use path::{CimName, CimPath, StreamName};
pub use profile::CimProfile;
pub use record::Recorder;
pub use security::SecurityDescriptor;
pub use validate::Validate;
pub use wcow::{WcowEvents, WcowOptions, WcowSource};
