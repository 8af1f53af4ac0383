//! What newer kernels have.

/// Which newer abilities of the kernel may be used. All of them have a fallback with the same result, which is
/// taken by itself where the kernel lacks one; turning one off is for tests of the fallback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KernelFeatures {
    /// EROFS images mounted from files (Linux 6.12). Fallback: loop devices.
    pub file_backed_erofs: bool,
    /// Layers given to overlayfs one by one (`lowerdir+`, Linux 6.8). Fallback: the option string of mount(2), with
    /// descriptors in place of paths.
    pub layer_by_layer: bool,
    /// Mounts that are attached nowhere as overlay layers, and binds of them (Linux 6.15; overlayfs takes
    /// descriptors since 6.13, but refuses those of detached mounts until then). Fallback: they are attached
    /// to a directory for a moment.
    pub detached_layers: bool,
}

impl Default for KernelFeatures {
    fn default() -> Self {
        Self { file_backed_erofs: true, layer_by_layer: true, detached_layers: true }
    }
}

impl KernelFeatures {
    /// Only what Linux 5.8 has.
    pub const fn oldest() -> Self {
        Self { file_backed_erofs: false, layer_by_layer: false, detached_layers: false }
    }
}
