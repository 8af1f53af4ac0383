//! Overlayfs layers on disk: directory handles, whiteouts and other markers, read and written.
