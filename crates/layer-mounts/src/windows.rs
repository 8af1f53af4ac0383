//! The Windows rows, as data: what their options say, for whoever has the layers.

use layer_model::{Error, ErrorKind, Result};

use crate::Mount;

/// A mount of a Windows snapshotter.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WindowsMount {
    mount: Mount,
    form: WindowsForm,
}

/// The forms of Windows layers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum WindowsForm {
    /// A layer directory (`windows-layer`).
    Layer {
        /// The directories of the parents, nearest first.
        parents: Vec<String>,
    },
    /// A layer of a Linux utility VM (`lcow-layer`).
    Lcow {
        /// The directories of the parents, nearest first.
        parents: Vec<String>,
    },
    /// A layer in a forked CIM (`CimFS`).
    Cim {
        /// The CIM.
        cim: Option<String>,
        /// The CIMs of the parents, nearest first.
        parent_cims: Vec<String>,
        /// The directories of the parents, nearest first.
        parents: Vec<String>,
    },
    /// A layer in a block CIM (`BlockCIM`).
    BlockCim {
        /// Whether the CIM is in a file or on a device, as `blockCIMType` says it.
        block_type: Option<String>,
        /// The merged CIM.
        merged: Option<String>,
        /// The CIMs of the parents, nearest first.
        parent_cims: Vec<String>,
        /// Whether integrity data is kept.
        integrity: bool,
        /// Whether a VHD footer is appended.
        vhd_footer: bool,
    },
}

impl WindowsMount {
    /// Reads the options of a Windows mount; [`None`] for other types.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for a list of parents that is no JSON list of texts.
    pub fn parse(mount: &Mount) -> Result<Option<Self>> {
        let text = |name| mount.value(name).map(str::to_owned);
        let parents = || list(mount, "parentLayerPaths");
        let form = match mount.kind.as_str() {
            "windows-layer" => WindowsForm::Layer { parents: parents()? },
            "lcow-layer" => WindowsForm::Lcow { parents: parents()? },
            "CimFS" => WindowsForm::Cim {
                cim: text("cimpath"),
                parent_cims: list(mount, "parentCimPaths")?,
                parents: parents()?,
            },
            "BlockCIM" => WindowsForm::BlockCim {
                block_type: text("blockCIMType"),
                merged: text("mergedCIMPath"),
                parent_cims: list(mount, "parentCimPaths")?,
                integrity: mount.has("enable_layer_integrity"),
                vhd_footer: mount.has("append_vhd_footer"),
            },
            _ => return Ok(None),
        };
        Ok(Some(Self { mount: mount.clone(), form }))
    }

    /// The mount as it was given.
    pub fn mount(&self) -> &Mount {
        &self.mount
    }

    /// What the options say.
    pub fn form(&self) -> &WindowsForm {
        &self.form
    }
}

fn list(mount: &Mount, name: &str) -> Result<Vec<String>> {
    let Some(json) = mount.value(name) else { return Ok(Vec::new()) };
    // containerd writes null for no parents.
    let paths: Option<Vec<String>> = serde_json::from_str(json).map_err(|error| {
        Error::new(ErrorKind::InvalidArgument, format!("{name} is no list of paths")).cause(error)
    })?;
    Ok(paths.unwrap_or_default())
}
