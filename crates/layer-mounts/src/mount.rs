//! One mount, as text.

use layer_model::{Error, ErrorKind, Result};

use crate::{
    managed::{self, Managed},
    template::{Activated, Template},
};

/// One mount of a list, as containerd's `mount.Mount` has it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Mount {
    /// The type: a file system, with the manager's steps in front of it ([`Kind`]).
    pub kind: String,
    /// What is mounted.
    pub source: String,
    /// Where below the mount point, mostly empty.
    pub target: String,
    /// The options, in their order.
    pub options: Vec<String>,
}

impl Mount {
    /// A mount without a target.
    pub fn new<O: Into<String>>(
        kind: impl Into<String>,
        source: impl Into<String>,
        options: impl IntoIterator<Item = O>,
    ) -> Self {
        let options = options.into_iter().map(Into::into).collect();
        Self { kind: kind.into(), source: source.into(), target: String::new(), options }
    }

    /// The value of the last option `name=value`.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.values(name).last()
    }

    /// The values of all options `name=value`, in their order.
    pub fn values<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> {
        self.options.iter().filter_map(move |option| option.strip_prefix(name)?.strip_prefix('='))
    }

    /// Whether the option `flag` is there, without a value.
    pub fn has(&self, flag: &str) -> bool {
        self.options.iter().any(|option| option == flag)
    }

    /// Whether the mount is read-only: of `ro` and `rw` the last one counts.
    pub fn is_read_only(&self) -> bool {
        self.options.iter().rev().find(|option| *option == "ro" || *option == "rw").is_some_and(|o| o == "ro")
    }

    /// The options that the mount manager takes for itself.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for a value that has not the form of its option.
    pub fn managed(&self) -> Result<Vec<Managed>> {
        self.options.iter().filter_map(|option| managed::parse(option).transpose()).collect()
    }

    /// The mount with its templates expanded, and without the steps that are done by then: `format` is taken
    /// off the type. `earlier` are the mounts before it, once they are mounted.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for what is no template, or names a mount that is not there.
    pub fn expanded(&self, earlier: &[Activated]) -> Result<Mount> {
        let mut kind = Kind::parse(&self.kind)?;
        if !kind.has(Step::Format) {
            return Ok(self.clone());
        }
        kind.steps.retain(|step| *step != Step::Format);
        let plain = |text: &str| Template::parse(text)?.expand(earlier);
        let is_overlay = kind.file_system == "overlay";
        let option = |text: &String| match text.split_once('=') {
            // Paths in there are taken apart again by the kernel.
            Some((name, value)) if is_overlay && crate::overlay::is_escaped(name) => {
                Ok(format!("{name}={}", Template::parse(value)?.expand_escaped(earlier)?))
            }
            _ => plain(text),
        };
        Ok(Mount {
            kind: kind.to_string(),
            source: plain(&self.source)?,
            target: plain(&self.target)?,
            options: self.options.iter().map(option).collect::<Result<_>>()?,
        })
    }

    /// Makes sure that nothing in the mount is for the manager any more.
    ///
    /// # Errors
    /// [`ErrorKind::FailedPrecondition`] when a step or an option is left: the kernel must not see it.
    pub fn check_for_kernel(&self) -> Result<()> {
        let left = |what: &str| {
            Err(Error::new(ErrorKind::FailedPrecondition, format!("{what} is left for the mount manager")))
        };
        let kind = Kind::parse(&self.kind)?;
        if let Some(step) = kind.steps.first() {
            return left(step.name());
        }
        match self.options.iter().find(|option| option.starts_with(managed::PREFIX)) {
            Some(option) => left(option),
            None => Ok(()),
        }
    }
}

/// The type of a mount: steps for the mount manager, done from left to right, and a file system.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Kind {
    /// What the manager does before it mounts.
    pub steps: Vec<Step>,
    /// The file system, the last part.
    pub file_system: String,
}

/// A step of the mount manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Expands templates.
    Format,
    /// Makes directories ([`Managed::Mkdir`]).
    Mkdir,
    /// Makes a file system in an image file ([`Managed::MkfsSize`] and its siblings).
    Mkfs,
}

impl Step {
    /// The step's name, as it stands in a type.
    pub fn name(self) -> &'static str {
        match self {
            Self::Format => "format",
            Self::Mkdir => "mkdir",
            Self::Mkfs => "mkfs",
        }
    }
}

impl Kind {
    /// Takes a type apart.
    ///
    /// # Errors
    /// [`ErrorKind::NotSupported`] for an unknown step, [`ErrorKind::InvalidArgument`] for no file system.
    pub fn parse(kind: &str) -> Result<Self> {
        let mut parts: Vec<&str> = kind.split('/').collect();
        let file_system = parts.pop().filter(|name| !name.is_empty());
        let file_system = file_system
            .ok_or_else(|| Error::new(ErrorKind::InvalidArgument, "mount without a file system type"))?;
        let step = |name: &str| match name {
            "format" => Ok(Step::Format),
            "mkdir" => Ok(Step::Mkdir),
            "mkfs" => Ok(Step::Mkfs),
            other => Err(Error::new(ErrorKind::NotSupported, format!("unknown mount step {other:?}"))),
        };
        let steps = parts.into_iter().map(step).collect::<Result<_>>()?;
        Ok(Self { steps, file_system: file_system.to_owned() })
    }

    /// Whether the manager does this step.
    pub fn has(&self, step: Step) -> bool {
        self.steps.contains(&step)
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for step in &self.steps {
            write!(f, "{}/", step.name())?;
        }
        f.write_str(&self.file_system)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_is_steps_and_a_file_system() {
        let kind = Kind::parse("format/mkdir/overlay").unwrap();
        assert_eq!(
            (kind.steps.as_slice(), kind.file_system.as_str()),
            (&[Step::Format, Step::Mkdir][..], "overlay")
        );
        assert_eq!(kind.to_string(), "format/mkdir/overlay");
        assert_eq!(Kind::parse("bind").unwrap().steps, []);
        assert_eq!(Kind::parse("shrink/ext4").unwrap_err().kind(), &ErrorKind::NotSupported);
        for empty in ["", "mkfs/"] {
            assert_eq!(Kind::parse(empty).unwrap_err().kind(), &ErrorKind::InvalidArgument);
        }
    }

    #[test]
    fn the_last_of_ro_and_rw_counts() {
        let mount = |options: &[&str]| Mount::new("bind", "/d", options.iter().copied());
        assert!(mount(&["rw", "rbind", "ro"]).is_read_only());
        assert!(!mount(&["ro", "rw"]).is_read_only() && !mount(&[]).is_read_only());
    }

    #[test]
    fn what_is_for_the_manager_does_not_reach_the_kernel() {
        let left = [
            Mount::new("mkdir/bind", "/d", ["rbind"]),
            Mount::new("bind", "/d", ["rbind", "X-containerd.mkdir.path=/d"]),
            Mount::new("bind", "/d", ["X-containerd.of.tomorrow"]),
        ];
        for mount in left {
            assert_eq!(mount.check_for_kernel().unwrap_err().kind(), &ErrorKind::FailedPrecondition);
        }
        assert!(Mount::new("bind", "/d", ["rbind", "x-mount.mkdir"]).check_for_kernel().is_ok());
    }
}
