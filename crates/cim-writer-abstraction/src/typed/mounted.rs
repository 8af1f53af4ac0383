//! From what a mount says to typed parents: the one place where text becomes types.

use std::path::Path;

use layer_model::{Error, ErrorKind, Layer, Result, Stack};

use super::{
    BlockCim, BlockStorage, Container, ForkedCim, ImageDir, Integrity, RootDigest, layers::block_form,
};
use crate::{
    mount::{BlockSpec, ForkedSpec},
    plan::LayerDir,
};

impl ForkedSpec {
    /// The parents as handles; [`None`] when there are none.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] when their images are not all in one directory: forks of one another are.
    pub fn stack(&self) -> Result<Option<Stack<ForkedCim>>> {
        let Some(nearest) = self.parents.first() else { return Ok(None) };
        let dir = ImageDir::new(nearest.cim.container())?;
        let count = self.parents.len() as u32;
        let handles = self.parents.iter().zip((0..count).rev()).map(|(parent, depth)| {
            if parent.cim.container() != dir.path() {
                let what = format!(
                    "the image {} is not in {}, where those forked from it are",
                    parent.cim,
                    dir.path()
                );
                return Err(Error::new(ErrorKind::InvalidArgument, what));
            }
            Ok(ForkedCim::new(dir.clone(), parent.cim.name().clone(), LayerDir::new(&parent.dir), depth))
        });
        Ok(Stack::from_nearest(handles.collect::<Result<Vec<_>>>()?))
    }
}

impl BlockSpec {
    /// The parents as handles; [`None`] when there are none. The root digests of verified ones are those that were
    /// written beside their containers, where they can be read.
    ///
    /// # Errors
    /// [`ErrorKind::WrongForm`] when the mount says that they are of another type, or verified and the handles are not.
    pub fn stack<S: BlockStorage, I: Integrity>(&self) -> Result<Option<Stack<BlockCim<S, I>>>> {
        let (expected, got) = (BlockCim::<S, I>::FORM.0, block_form(self.cim_type, self.integrity).0);
        if expected != got {
            return Err(Error::new(ErrorKind::WrongForm { expected, got }, "a mount of other block CIMs"));
        }
        let handles = self.parents.iter().map(|parent| {
            // Whatever system this is, the container's path is that of the host that the mount is for.
            let dir = parent.container().rsplit_once(['\\', '/']).map_or("", |(dir, _)| dir);
            let digest = I::SEALED.then(|| written_digest(Path::new(dir))).flatten();
            let container = Container::new(parent.container())?;
            Ok(BlockCim::new(container, parent.name().clone(), LayerDir::new(dir), I::evidence(digest)))
        });
        Ok(Stack::from_nearest(handles.collect::<Result<Vec<_>>>()?))
    }
}

/// The root digest in the file that an import left in `dir`.
fn written_digest(dir: &Path) -> Option<RootDigest> {
    RootDigest::parse(std::fs::read_to_string(dir.join("integrity_checksum")).ok()?.trim())
}

#[cfg(test)]
mod tests {
    use layer_mounts::Mount;

    use super::*;
    use crate::{
        CimProfile,
        mount::{AnySpec, MountSpec, Reader},
        typed::{Device, SingleFile, Unverified, Verified},
    };

    fn parsed(kind: &str, source: &str, options: &[&str]) -> AnySpec {
        let mounts = [Mount::new(kind, source, options.iter().copied())];
        MountSpec::parse(&mounts, Reader::Differ, CimProfile::Spec).unwrap().into_any()
    }

    #[test]
    fn parents_of_block_mounts_are_typed_by_what_the_mount_says() {
        let options = [
            r#"parentCimPaths=["C:\\s\\2\\layer.vhd\\layer.cim","C:\\s\\1\\layer.vhd\\layer.cim"]"#,
            "blockCIMType=file",
        ];
        let AnySpec::Block(spec) = parsed("BlockCIM", r"C:\s\3\layer.vhd\layer.cim", &options) else {
            panic!()
        };
        let stack = spec.stack::<SingleFile, Unverified>().unwrap().unwrap();
        let containers: Vec<_> = stack.iter().map(|layer| layer.container().path()).collect();
        assert_eq!(containers, [r"C:\s\2\layer.vhd", r"C:\s\1\layer.vhd"]);
        assert_eq!(stack.nearest().files().path(), Path::new(r"C:\s\2"));
        let error = spec.stack::<SingleFile, Verified>().unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::WrongForm { expected: "verified block CIM", got: "block CIM" });
        assert!(spec.stack::<Device, Unverified>().is_err());
    }

    #[test]
    fn parents_of_forked_mounts_are_next_to_each_other() {
        let forked = |cims: &str| {
            let options = [
                "rw",
                r"cimpath=C:\cims\3.cim",
                r#"parentLayerPaths=["C:\\s\\2","C:\\s\\1"]"#,
                &format!("parentCimPaths={cims}"),
            ];
            match parsed("CimFS", r"C:\s\3", &options) {
                AnySpec::Forked(spec) => spec.stack(),
                AnySpec::Block(_) => panic!("a mount of a forked CIM"),
            }
        };
        let stack = forked(r#"["C:\\cims\\2.cim","C:\\cims\\1.cim"]"#).unwrap().unwrap();
        let found: Vec<_> = stack.iter().map(|layer| (layer.name().as_str(), layer.depth())).collect();
        assert_eq!(found, [("2.cim", 1), ("1.cim", 0)]);
        assert_eq!(stack.nearest().files().path(), Path::new(r"C:\s\2"));
        let error = forked(r#"["C:\\cims\\2.cim","C:\\other\\1.cim"]"#).unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::InvalidArgument);
    }
}
