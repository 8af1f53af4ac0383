//! EROFS mounts.

use layer_model::{Error, ErrorKind, Result};

use crate::{Mount, managed::Managed};

/// A mount of an EROFS image: one layer, or merged metadata over the blobs of several.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ErofsMount {
    mount: Mount,
    devices: Vec<String>,
    verity: Option<String>,
}

impl ErofsMount {
    /// Reads the options of an EROFS mount.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] without a source, or for an option of the manager that has not its form.
    pub fn parse(mount: Mount) -> Result<Self> {
        if mount.source.is_empty() {
            return Err(Error::new(ErrorKind::InvalidArgument, "EROFS mount without an image"));
        }
        let devices = mount.values("device").map(str::to_owned).collect();
        let verity = mount.managed()?.into_iter().rev().find_map(|option| match option {
            Managed::DmVerity(path) => Some(path),
            _ => None,
        });
        Ok(Self { mount, devices, verity })
    }

    /// The mount as it was given.
    pub fn mount(&self) -> &Mount {
        &self.mount
    }

    /// The image file or device.
    pub fn image(&self) -> &str {
        &self.mount.source
    }

    /// The further devices in the order of their slots, as the option gives them; of merged metadata these are
    /// the layers, bottom first.
    pub fn devices(&self) -> &[String] {
        &self.devices
    }

    /// Whether the image is the merged metadata of other images.
    pub fn is_merged(&self) -> bool {
        !self.devices.is_empty()
    }

    /// The images that hold the layers, nearest first: those that merged metadata stands for, or the image.
    pub fn layers(&self) -> Vec<&str> {
        if self.is_merged() {
            self.devices.iter().rev().map(String::as_str).collect()
        } else {
            vec![self.image()]
        }
    }

    /// The file that describes the image's dm-verity device, where there is one.
    pub fn verity(&self) -> Option<&str> {
        self.verity.as_deref()
    }
}
