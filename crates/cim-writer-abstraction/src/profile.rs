//! Which behaviour is followed where the reference implementation and good sense part.

/// How closely hcsshim is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum CimProfile {
    /// What can be told to be a mistake is refused or put right.
    #[default]
    Spec,
    /// What hcsshim does, with its harmless quirks; what loses data is not reproduced.
    Hcsshim,
}
