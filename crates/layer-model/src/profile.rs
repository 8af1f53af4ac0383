//! Which reference an operation follows.

/// Which behaviour an operation has where the OCI specification and containerd part.
///
/// On layers that are valid under the specification and touch none of containerd's quirks, both give the
/// same result. What containerd does that loses data or is unsafe is reproduced by neither.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Profile {
    /// Follow the OCI image specification; report every lossy step as a warning.
    #[default]
    Spec,
    /// Make the same bytes (diff) and the same tree (apply) as containerd 2.1, with its harmless quirks.
    Containerd,
}
