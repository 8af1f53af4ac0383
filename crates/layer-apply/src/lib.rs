//! Applies the changes of a layer to directories, in overlay form or flattened.
#![deny(unsafe_code)]

#[cfg(target_os = "linux")]
mod budget;
#[cfg(target_os = "linux")]
mod data;
#[cfg(target_os = "linux")]
mod engine;
#[cfg(target_os = "linux")]
mod flat;
#[cfg(target_os = "linux")]
mod fs;
#[cfg(target_os = "linux")]
mod options;
#[cfg(target_os = "linux")]
mod overlay;

#[cfg(target_os = "linux")]
pub use self::{
    flat::{FlatApplier, FlatSink},
    fs::stage::{STAGING_PREFIX, StagedDir},
    options::{ApplyOptions, DevicePolicy, KernelFeatures, Limits, OverlayXattrs, WhiteoutForm, XattrPolicy},
    overlay::{OverlayApplier, OverlaySink, Pending, reconcile},
};
