//! The Windows rows, as data: what their options say, for whoever has the layers.

use layer_model::{Error, ErrorKind, Result};

use crate::Mount;

/// The type of a mount of a layer directory.
pub const LAYER: &str = "windows-layer";
/// The type of a mount of a layer of a Linux utility VM.
pub const LCOW: &str = "lcow-layer";
/// The type of a mount of a forked CIM.
pub const CIM: &str = "CimFS";
/// The type of a mount of a block CIM.
pub const BLOCK_CIM: &str = "BlockCIM";

/// The option with the directories of the parents, nearest first.
pub const PARENT_LAYERS: &str = "parentLayerPaths";
/// The option with the CIMs of the parents, nearest first.
pub const PARENT_CIMS: &str = "parentCimPaths";
/// The option with the CIM that a layer is extracted to.
pub const CIM_PATH: &str = "cimpath";
/// The option that says whether block CIMs are in files or on devices.
pub const BLOCK_CIM_TYPE: &str = "blockCIMType";
/// The option with the CIM that all parents are merged in.
pub const MERGED_CIM: &str = "mergedCIMPath";
/// The option, without a value, that keeps integrity data.
pub const LAYER_INTEGRITY: &str = "enable_layer_integrity";
/// The option, without a value, that appends VHD footers.
pub const VHD_FOOTER: &str = "append_vhd_footer";

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
        let parents = || list(mount, PARENT_LAYERS);
        let form = match mount.kind.as_str() {
            LAYER => WindowsForm::Layer { parents: parents()? },
            LCOW => WindowsForm::Lcow { parents: parents()? },
            CIM => WindowsForm::Cim {
                cim: text(CIM_PATH),
                parent_cims: list(mount, PARENT_CIMS)?,
                parents: parents()?,
            },
            BLOCK_CIM => WindowsForm::BlockCim {
                block_type: text(BLOCK_CIM_TYPE),
                merged: text(MERGED_CIM),
                parent_cims: list(mount, PARENT_CIMS)?,
                integrity: mount.has(LAYER_INTEGRITY),
                vhd_footer: mount.has(VHD_FOOTER),
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
    mount.value(name).map_or(Ok(Vec::new()), |json| parse_paths(name, json))
}

/// Reads the value of the option `name`: a JSON list of texts.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`] for anything else.
pub fn parse_paths(name: &str, json: &str) -> Result<Vec<String>> {
    // containerd writes null for no parents.
    let paths: Option<Vec<String>> = serde_json::from_str(json).map_err(|error| {
        Error::new(ErrorKind::InvalidArgument, format!("{name} is no list of paths")).cause(error)
    })?;
    Ok(paths.unwrap_or_default())
}

/// Writes a list of paths as containerd does: JSON as Go has it, with more escapes than others.
pub fn paths_to_json<P: AsRef<str>>(paths: impl IntoIterator<Item = P>) -> String {
    let texts: Vec<String> = paths.into_iter().map(|path| go_json_text(path.as_ref())).collect();
    format!("[{}]", texts.join(","))
}

/// A JSON text that is safe inside HTML, too: what Go's `encoding/json` writes.
fn go_json_text(text: &str) -> String {
    let mut json = String::from("\"");
    for char in text.chars() {
        match char {
            '"' | '\\' => json.extend(['\\', char]),
            '\n' => json.push_str("\\n"),
            '\r' => json.push_str("\\r"),
            '\t' => json.push_str("\\t"),
            '\u{8}' => json.push_str("\\b"),
            '\u{c}' => json.push_str("\\f"),
            '\0'..' ' | '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                json.push_str(&format!("\\u{:04x}", u32::from(char)));
            }
            _ => json.push(char),
        }
    }
    json.push('"');
    json
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_paths_are_escaped_as_go_does() {
        let json = paths_to_json([r"C:\a&b", "<\"\u{1}\n\u{2028}é>"]);
        assert_eq!(json, r#"["C:\\a\u0026b","\u003c\"\u0001\n\u2028é\u003e"]"#);
        assert_eq!(parse_paths("x", &json).unwrap(), [r"C:\a&b", "<\"\u{1}\n\u{2028}é>"]);
        assert_eq!(paths_to_json::<&str>([]), "[]");
    }
}
