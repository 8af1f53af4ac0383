//! What cannot be written any more: each mistake does not compile, next to what is right and does.
//!
//! All of these are errors at run time, or silent, where parents are strings.
//!
//! # Parents of another container, another kind, another integrity
//!
//! ```
//! # use cim_writer_abstraction::{caps::*, typed::*, CimSink}; use layer_model::{Result, Silent, Stack};
//! # fn f(target: Target<SingleFile>, sink: impl CimSink, can: CanVerify, below: &Stack<BlockCim<SingleFile, Verified>>) -> Result<()> {
//! Import::<SingleFile>::child(target, below, sink, can, Default::default(), &Silent)?.commit()?;
//! # Ok(()) }
//! ```
//! ```compile_fail
//! # use cim_writer_abstraction::{caps::*, typed::*, CimSink}; use layer_model::{Result, Silent, Stack};
//! # fn f(target: Target<SingleFile>, sink: impl CimSink, can: CanVerify, below: &Stack<BlockCim<Device, Verified>>) -> Result<()> {
//! Import::<SingleFile>::child(target, below, sink, can, Default::default(), &Silent)?.commit()?;
//! # Ok(()) }
//! ```
//! ```compile_fail
//! # use cim_writer_abstraction::{caps::*, typed::*, CimSink}; use layer_model::{Result, Silent, Stack};
//! # fn f(target: Target<SingleFile>, sink: impl CimSink, can: CanVerify, below: &Stack<ForkedCim>) -> Result<()> {
//! Import::<SingleFile>::child(target, below, sink, can, Default::default(), &Silent)?.commit()?;
//! # Ok(()) }
//! ```
//! A verified layer on one that is not, with the token of either:
//! ```compile_fail
//! # use cim_writer_abstraction::{caps::*, typed::*, CimSink}; use layer_model::{Result, Silent, Stack};
//! # fn f(target: Target<SingleFile>, sink: impl CimSink, can: CanVerify, below: &Stack<BlockCim<SingleFile, Unverified>>) -> Result<()> {
//! Import::<SingleFile>::child(target, below, sink, can, Default::default(), &Silent)?.commit()?;
//! # Ok(()) }
//! ```
//!
//! # Writing to a device, or to a container of no kind
//!
//! ```compile_fail
//! # use cim_writer_abstraction::{caps::*, typed::*, CimSink}; use layer_model::{Result, Silent, Stack};
//! # fn f(target: Target<Device>, sink: impl CimSink, can: CanVerify, below: &Stack<BlockCim<Device, Verified>>) -> Result<()> {
//! Import::<Device>::child(target, below, sink, can, Default::default(), &Silent)?.commit()?;
//! # Ok(()) }
//! ```
//! ```compile_fail
//! # use cim_writer_abstraction::{caps::*, typed::*, CimSink}; use layer_model::{Result, Silent};
//! # fn f(into: Target<Device>, sources: AtLeastTwo<'_, BlockCim<Device, Verified>>, sink: impl CimSink, can: (CanMerge, CanVerify)) -> Result<()> {
//! merge(into, sources, sink, can, None, &Silent)?;
//! # Ok(()) }
//! ```
//! ```compile_fail
//! # use cim_writer_abstraction::typed::*;
//! enum NoContainer {}
//! fn container() -> Container<NoContainer> { Container::<NoContainer>::new("layer.vhd").unwrap() }
//! ```
//!
//! # An empty path, or an empty name
//!
//! The constructors refuse them, and there is no way around:
//! ```
//! # use cim_writer_abstraction::{typed::*, CimName};
//! assert!(Container::<SingleFile>::new("").is_err() && CimName::new("").is_err() && ImageDir::new("").is_err());
//! ```
//! ```compile_fail
//! # use cim_writer_abstraction::CimName;
//! let name = CimName("".into());
//! ```
//! ```compile_fail
//! # use cim_writer_abstraction::typed::*;
//! let container = Container::<SingleFile> { path: "".into(), storage: std::marker::PhantomData };
//! ```
//!
//! # Merging fewer than two, or in an order of one's own
//!
//! ```
//! # use cim_writer_abstraction::{caps::*, typed::*, CimSink}; use layer_model::{Result, Silent, Stack};
//! # fn f(into: Target<SingleFile>, stack: &Stack<BlockCim<SingleFile, Unverified>>, sink: impl CimSink, can: (CanMerge, CanWriteBlocks)) -> Result<()> {
//! if let Some(sources) = AtLeastTwo::new(stack) {
//!     merge(into, sources, sink, can, None, &Silent)?;
//! }
//! # Ok(()) }
//! ```
//! ```compile_fail
//! # use cim_writer_abstraction::{caps::*, typed::*, CimSink}; use layer_model::{Result, Silent, Stack};
//! # fn f(into: Target<SingleFile>, stack: &Stack<BlockCim<SingleFile, Unverified>>, sink: impl CimSink, can: (CanMerge, CanWriteBlocks)) -> Result<()> {
//! merge(into, stack, sink, can, None, &Silent)?;
//! # Ok(()) }
//! ```
//! ```compile_fail
//! # use cim_writer_abstraction::{caps::*, typed::*, CimSink}; use layer_model::{Result, Silent};
//! # fn f(target: Target<SingleFile>, sink: impl CimSink, can: CanWriteBlocks, below: &[BlockCim<SingleFile, Unverified>]) -> Result<()> {
//! Import::<SingleFile>::child(target, below, sink, can, Default::default(), &Silent)?.commit()?;
//! # Ok(()) }
//! ```
//!
//! # Mounting with other sources than were merged, or with the flag of another call
//!
//! ```
//! # use cim_writer_abstraction::typed::*;
//! # fn f(merged: &Merged<SingleFile, Verified>) {
//! let arguments = merged.mount_arguments();
//! assert_eq!(arguments.images.len(), merged.sources().len() + 1);
//! # }
//! ```
//! ```compile_fail
//! # use cim_writer_abstraction::{op::MountFlags, typed::*};
//! let arguments = MountArguments { images: Vec::new(), flags: MountFlags::VERIFIED, root_digest: None };
//! ```
//! ```compile_fail
//! # use cim_writer_abstraction::typed::*; use layer_model::Stack;
//! # fn f(layer: BlockCim<SingleFile, Verified>, other: Stack<BlockCim<SingleFile, Verified>>) {
//! let merged = Merged { layer, sources: other };
//! # }
//! ```
//!
//! # Treating a layer without parents as one with parents
//!
//! ```
//! # use cim_writer_abstraction::{typed::*, CimPath, CimSink}; use layer_model::Result;
//! # fn f<K: CimSink>(writer: &mut Writer<'_, ForkedCim, ChildRole, K>, path: &CimPath) -> Result<()> {
//! writer.remove(path)
//! # }
//! ```
//! ```compile_fail
//! # use cim_writer_abstraction::{typed::*, CimPath, CimSink}; use layer_model::Result;
//! # fn f<K: CimSink>(writer: &mut Writer<'_, ForkedCim, BaseRole, K>, path: &CimPath) -> Result<()> {
//! writer.remove(path)
//! # }
//! ```
//!
//! # Forking into another directory, forking a block CIM, marking as if a fork were one
//!
//! A child goes where its parent is: there is no argument for another directory.
//! ```
//! # use cim_writer_abstraction::{caps::*, plan::LayerDir, typed::*, CimName, CimSink}; use layer_model::{Result, Silent, Stack};
//! # fn f(below: &Stack<ForkedCim>, name: CimName, files: LayerDir, sink: impl CimSink, can: CanFork) -> Result<()> {
//! Import::<Forked>::child(below, name, files, sink, can, Default::default(), &Silent)?.commit()?;
//! # Ok(()) }
//! ```
//! ```compile_fail
//! # use cim_writer_abstraction::{caps::*, plan::LayerDir, typed::*, CimName, CimSink}; use layer_model::{Result, Silent, Stack};
//! # fn f(dir: &ImageDir, below: &Stack<ForkedCim>, name: CimName, files: LayerDir, sink: impl CimSink, can: CanFork) -> Result<()> {
//! Import::<Forked>::child(dir, below, name, files, sink, can, Default::default(), &Silent)?.commit()?;
//! # Ok(()) }
//! ```
//! ```compile_fail
//! # use cim_writer_abstraction::{caps::*, plan::LayerDir, typed::*, CimName, CimSink}; use layer_model::{Result, Silent, Stack};
//! # fn f(below: &Stack<BlockCim<SingleFile, Unverified>>, name: CimName, files: LayerDir, sink: impl CimSink, can: CanFork) -> Result<()> {
//! Import::<Forked>::child(below, name, files, sink, can, Default::default(), &Silent)?.commit()?;
//! # Ok(()) }
//! ```
//! Which operation takes something away follows from the kind; neither can be asked for by itself.
//! ```compile_fail
//! # use cim_writer_abstraction::{typed::*, CimPath, CimSink}; use layer_model::Result;
//! # fn f<K: CimSink>(writer: &mut Writer<'_, ForkedCim, ChildRole, K>, path: &CimPath) -> Result<()> {
//! writer.tombstone(path)
//! # }
//! ```
//! ```compile_fail
//! # use cim_writer_abstraction::{typed::*, CimPath, CimSink}; use layer_model::Result;
//! # fn f<K: CimSink>(writer: &mut Writer<'_, ForkedCim, ChildRole, K>, path: &CimPath) -> Result<()> {
//! writer.merge_link(path, path)
//! # }
//! ```
//!
//! # Anything else while a stream is open, and a stream after its end
//!
//! ```
//! # use cim_writer_abstraction::{typed::*, CimPath, CimSink, FileMeta}; use layer_model::Result;
//! # fn f<K: CimSink>(writer: &mut Writer<'_, ForkedCim, ChildRole, K>, path: &CimPath, link: &CimPath) -> Result<()> {
//! let mut stream = writer.file(path, &FileMeta::default(), 2)?;
//! stream.push(b"hi")?;
//! stream.finish()?;
//! writer.hard_link(link, path)
//! # }
//! ```
//! ```compile_fail
//! # use cim_writer_abstraction::{typed::*, CimPath, CimSink, FileMeta}; use layer_model::Result;
//! # fn f<K: CimSink>(writer: &mut Writer<'_, ForkedCim, ChildRole, K>, path: &CimPath, link: &CimPath) -> Result<()> {
//! let mut stream = writer.file(path, &FileMeta::default(), 2)?;
//! writer.hard_link(link, path)?;
//! stream.push(b"hi")?;
//! stream.finish()
//! # }
//! ```
//! ```compile_fail
//! # use cim_writer_abstraction::{typed::*, CimPath, CimSink, FileMeta}; use layer_model::Result;
//! # fn f<K: CimSink>(writer: &mut Writer<'_, ForkedCim, ChildRole, K>, path: &CimPath) -> Result<()> {
//! let mut stream = writer.file(path, &FileMeta::default(), 2)?;
//! stream.finish()?;
//! stream.push(b"hi")
//! # }
//! ```
//!
//! # An image of a layer that failed, or anything after the end
//!
//! ```compile_fail
//! # use cim_writer_abstraction::{typed::*, CimPath, CimSink}; use layer_model::Result;
//! # fn f<K: CimSink>(mut writer: Writer<'_, ForkedCim, ChildRole, K>, path: &CimPath) -> Result<()> {
//! writer.commit()?;
//! writer.remove(path)
//! # }
//! ```
//! ```compile_fail
//! # use cim_writer_abstraction::{typed::*, CimSink};
//! # fn f<K: CimSink>(writer: &mut Writer<'_, ForkedCim, ChildRole, K>) {
//! writer.commit();
//! # }
//! ```
//!
//! # The digest of an image that has none
//!
//! ```
//! # use cim_writer_abstraction::typed::*;
//! # fn f(layer: &BlockCim<SingleFile, Verified>) -> Option<RootDigest> {
//! layer.root_digest()
//! # }
//! ```
//! ```compile_fail
//! # use cim_writer_abstraction::typed::*;
//! # fn f(layer: &BlockCim<SingleFile, Unverified>) -> Option<RootDigest> {
//! layer.root_digest()
//! # }
//! ```
//!
//! # Forgetting to ask what this Windows can do
//!
//! ```compile_fail
//! # use cim_writer_abstraction::{plan::LayerDir, typed::*, CimName, CimSink}; use layer_model::{Result, Silent, Stack};
//! # fn f(below: &Stack<ForkedCim>, name: CimName, files: LayerDir, sink: impl CimSink) -> Result<()> {
//! Import::<Forked>::child(below, name, files, sink, Default::default(), &Silent)?.commit()?;
//! # Ok(()) }
//! ```
//! ```compile_fail
//! # use cim_writer_abstraction::caps::CanFork;
//! let can = CanFork(());
//! ```
//! ```compile_fail
//! # use cim_writer_abstraction::{caps::*, typed::*, CimSink}; use layer_model::{Result, Silent};
//! # fn f(target: Target<SingleFile>, sink: impl CimSink, can: CanWriteBlocks) -> Result<()> {
//! Import::<SingleFile>::base::<Verified, _>(target, sink, can, Default::default(), &Silent)?.commit()?;
//! # Ok(()) }
//! ```
