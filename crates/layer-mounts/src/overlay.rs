//! Overlay mounts: lists of layers, and the features that change what an upper directory means.

use layer_model::{
    Error, ErrorKind, Result,
    idmap::{IdMap, IdRange},
};

use crate::Mount;

/// An overlay mount whose paths are known.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OverlayMount {
    mount: Mount,
    lowers: Vec<String>,
    data_only: Vec<String>,
    upper: Option<String>,
    work: Option<String>,
}

/// The mount option `redirect_dir`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Redirect {
    /// `redirect_dir=off`.
    Off,
    /// `redirect_dir=nofollow`.
    NoFollow,
    /// `redirect_dir=follow`.
    Follow,
    /// `redirect_dir=on`.
    On,
}

impl OverlayMount {
    /// Reads the options of an overlay mount. Nothing is left for the mount manager in it, and no template.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for layers that the kernel refuses: an empty name, a layer after a
    /// data-only one, no layer at all.
    pub fn parse(mount: Mount) -> Result<Self> {
        let mut layers = Layers::default();
        let (mut upper, mut work) = (None, None);
        for option in &mount.options {
            let Some((name, value)) = option.split_once('=') else { continue };
            match name {
                "lowerdir" => layers = Layers::from_list(value)?,
                "lowerdir+" => layers.add(value, false)?,
                "datadir+" => layers.add(value, true)?,
                "upperdir" => upper = Some(named(unescape(value))?),
                "workdir" => work = Some(named(unescape(value))?),
                _ => {}
            }
        }
        if layers.lowers.is_empty() {
            return Err(Error::new(ErrorKind::InvalidArgument, "overlay mount without a lower layer"));
        }
        Ok(Self { lowers: layers.lowers, data_only: layers.data_only, upper, work, mount })
    }

    /// The mount as it was given.
    pub fn mount(&self) -> &Mount {
        &self.mount
    }

    /// The lower layers, nearest first, as paths: without escapes.
    pub fn lowers(&self) -> &[String] {
        &self.lowers
    }

    /// The layers below those that have data only, nearest first.
    pub fn data_only(&self) -> &[String] {
        &self.data_only
    }

    /// The upper directory; a view has none.
    pub fn upper(&self) -> Option<&str> {
        self.upper.as_deref()
    }

    /// The work directory.
    pub fn work(&self) -> Option<&str> {
        self.work.as_deref()
    }

    /// What `redirect_dir` says; [`None`] leaves it to the kernel.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for a word that the option does not have.
    pub fn redirect(&self) -> Result<Option<Redirect>> {
        self.choice(
            "redirect_dir",
            &[
                ("off", Redirect::Off),
                ("nofollow", Redirect::NoFollow),
                ("follow", Redirect::Follow),
                ("on", Redirect::On),
            ],
        )
    }

    /// What `metacopy` says; [`None`] leaves it to the kernel.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for a word that the option does not have.
    pub fn metacopy(&self) -> Result<Option<bool>> {
        self.choice("metacopy", &[("off", false), ("on", true)])
    }

    /// What `index` says; [`None`] leaves it to the kernel.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for a word that the option does not have.
    pub fn index(&self) -> Result<Option<bool>> {
        self.choice("index", &[("off", false), ("on", true)])
    }

    /// Whether the mount syncs nothing.
    pub fn is_volatile(&self) -> bool {
        self.mount.has("volatile")
    }

    /// Whether the markers are in `user.overlay.*`.
    pub fn has_user_xattrs(&self) -> bool {
        self.mount.has("userxattr")
    }

    /// The map of user ids (`uidmap=`), the identity without one.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for what is no map.
    pub fn user_map(&self) -> Result<IdMap> {
        self.id_map("uidmap")
    }

    /// The map of group ids (`gidmap=`), the identity without one.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for what is no map.
    pub fn group_map(&self) -> Result<IdMap> {
        self.id_map("gidmap")
    }

    /// The options that this crate does not know to have no influence on what an upper directory means. While
    /// there is one, nobody should read the upper directory instead of the mount.
    pub fn unknown_options(&self) -> impl Iterator<Item = &str> {
        self.mount.options.iter().map(String::as_str).filter(|option| !is_understood(option))
    }

    fn choice<T: Copy>(&self, name: &str, words: &[(&str, T)]) -> Result<Option<T>> {
        let Some(value) = self.mount.value(name) else { return Ok(None) };
        let found = words.iter().find(|(word, _)| *word == value).map(|(_, meaning)| *meaning);
        let bad = || Error::new(ErrorKind::InvalidArgument, format!("unusable mount option {name}={value}"));
        found.map(Some).ok_or_else(bad)
    }

    /// `INSIDE:OUTSIDE:LENGTH` runs with commas between, as containerd writes them.
    fn id_map(&self, name: &str) -> Result<IdMap> {
        let Some(value) = self.mount.value(name) else { return Ok(IdMap::identity()) };
        let bad = || Error::new(ErrorKind::InvalidArgument, format!("unusable mount option {name}={value}"));
        let run = |text: &str| {
            let numbers: Vec<u32> = text.split(':').map(|n| n.parse().ok()).collect::<Option<_>>()?;
            match numbers[..] {
                [inside, outside, len] => Some(IdRange { inside, outside, len }),
                _ => None,
            }
        };
        IdMap::new(value.split(',').map(run).collect::<Option<_>>().ok_or_else(bad)?)
    }
}

/// Options with a value that are read here, or that change nothing about what is on disk below the upper
/// directory: how inode numbers are shown (`xino`), which file systems may be mixed (`uuid`), whether data
/// of lower layers is verified (`verity`), whether the mount can be exported (`nfs_export`, whose index is
/// outside of the upper directory).
const UNDERSTOOD: [&str; 13] = [
    "lowerdir",
    "lowerdir+",
    "datadir+",
    "upperdir",
    "workdir",
    "redirect_dir",
    "metacopy",
    "index",
    "uidmap",
    "gidmap",
    "xino",
    "uuid",
    "verity",
];

/// Flags that are read here, or that restrict what happens through the mount and not what is in it.
const UNDERSTOOD_FLAGS: [&str; 17] = [
    "volatile",
    "userxattr",
    "default_permissions",
    "ro",
    "rw",
    "nodev",
    "dev",
    "nosuid",
    "suid",
    "noexec",
    "exec",
    "noatime",
    "nodiratime",
    "relatime",
    "strictatime",
    "sync",
    "async",
];

fn is_understood(option: &str) -> bool {
    match option.split_once('=') {
        Some(("nfs_export", value)) => value == "off" || value == "on",
        Some((name, _)) => UNDERSTOOD.contains(&name),
        None => UNDERSTOOD_FLAGS.contains(&option),
    }
}

/// Whether the kernel takes backslashes out of the value of this option. `lowerdir+` and `datadir+` are taken
/// as they are (measured on 6.18).
pub(crate) fn is_escaped(name: &str) -> bool {
    matches!(name, "lowerdir" | "upperdir" | "workdir")
}

/// A path as it has to be written in `lowerdir=`, `upperdir=` and `workdir=`: a backslash before each colon,
/// comma and backslash.
pub fn escape(path: &str) -> String {
    let mut escaped = String::with_capacity(path.len());
    for c in path.chars() {
        if matches!(c, ':' | ',' | '\\') {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

/// The path in a value: every backslash makes the character after it an ordinary one.
pub fn unescape(value: &str) -> String {
    let mut chars = value.chars();
    let mut path = String::with_capacity(value.len());
    while let Some(c) = chars.next() {
        path.push(if c == '\\' { chars.next().unwrap_or(c) } else { c });
    }
    path
}

/// The layers of a `lowerdir=` value, nearest first: those that merge, and those behind a `::`, of data only.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`] for what the kernel refuses: an empty name, a layer behind a single colon
/// after a data-only one, no layer before those.
pub fn split_lowerdir(value: &str) -> Result<(Vec<String>, Vec<String>)> {
    let layers = Layers::from_list(value)?;
    Ok((layers.lowers, layers.data_only))
}

#[derive(Default)]
struct Layers {
    lowers: Vec<String>,
    data_only: Vec<String>,
    /// Whether they are from a `lowerdir=`, to which nothing can be added.
    closed: bool,
}

impl Layers {
    fn from_list(value: &str) -> Result<Self> {
        let mut layers = Self::default();
        let mut data = false;
        for (at, part) in split_at_colons(value).into_iter().enumerate() {
            if part.is_empty() && at > 0 && !data {
                data = true;
                continue;
            }
            layers.add(&unescape(part), data)?;
            data = false;
        }
        if data {
            return Err(refused("a lower layer without a name"));
        }
        layers.closed = true;
        Ok(layers)
    }

    fn add(&mut self, path: &str, data: bool) -> Result<()> {
        let path = named(path.to_owned())?;
        match data {
            _ if self.closed => return Err(refused("a layer added to a list that is complete")),
            true if self.lowers.is_empty() => return Err(refused("data-only layers without a layer above")),
            false if !self.data_only.is_empty() => return Err(refused("a layer below a data-only one")),
            true => self.data_only.push(path),
            false => self.lowers.push(path),
        }
        Ok(())
    }
}

fn named(path: String) -> Result<String> {
    if path.is_empty() { Err(refused("an overlay directory without a name")) } else { Ok(path) }
}

fn refused(why: &str) -> Error {
    Error::new(ErrorKind::InvalidArgument, format!("unusable overlay layers: {why}"))
}

pub(crate) fn split_at_colons(value: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut start = 0;
    let mut bytes = value.bytes().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'\\' => drop(bytes.next()),
            b':' => {
                parts.push(&value[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&value[start..]);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overlay(options: &[&str]) -> Result<OverlayMount> {
        OverlayMount::parse(Mount::new("overlay", "overlay", options.iter().copied()))
    }

    #[test]
    fn lower_layers_are_listed_nearest_first() {
        let mount = overlay(&["index=off", "workdir=/w", "upperdir=/u", "lowerdir=/a:/b"]).unwrap();
        assert_eq!((mount.upper(), mount.work()), (Some("/u"), Some("/w")));
        assert_eq!(mount.lowers(), ["/a", "/b"]);
        assert_eq!(mount.index().unwrap(), Some(false));
    }

    #[test]
    fn a_backslash_makes_a_colon_part_of_a_name() {
        let mount = overlay(&[r"lowerdir=/a\:b:/c\\:/d\,e", r"upperdir=/u:p\,q\\"]).unwrap();
        assert_eq!(mount.lowers(), ["/a:b", r"/c\", "/d,e"]);
        assert_eq!(mount.upper(), Some(r"/u:p,q\"));
    }

    #[test]
    fn layers_behind_two_colons_have_data_only() {
        let mount = overlay(&["lowerdir=a::data1::data2"]).unwrap();
        assert_eq!(
            (mount.lowers(), mount.data_only()),
            (&["a".to_owned()][..], &["data1".into(), "data2".into()][..])
        );
    }

    #[test]
    fn layers_can_be_added_one_by_one_and_are_taken_as_they_are() {
        let mount = overlay(&["lowerdir+=/a:b", r"lowerdir+=/c\d", "datadir+=/e"]).unwrap();
        assert_eq!(
            (mount.lowers(), mount.data_only()),
            (&["/a:b".to_owned(), r"/c\d".into()][..], &["/e".into()][..])
        );
        assert_eq!(overlay(&["lowerdir+=/x", "lowerdir=/a:/b"]).unwrap().lowers(), ["/a", "/b"]);
    }

    #[test]
    fn lists_that_the_kernel_refuses_are_refused() {
        for bad in [
            &["lowerdir="][..],
            &["lowerdir=:a"],
            &["lowerdir=a:"],
            &["lowerdir=a:b::"],
            &["lowerdir=::a"],
            &["lowerdir=a:::b"],
            &["lowerdir=a::b:c"],
            &["lowerdir=a:b", "lowerdir+=c"],
            &["datadir+=a", "lowerdir+=b"],
            &["lowerdir+=a", "datadir+=b", "lowerdir+=c"],
            &["lowerdir=a", "upperdir="],
            &["upperdir=u", "workdir=w"],
        ] {
            assert_eq!(overlay(bad).unwrap_err().kind(), &ErrorKind::InvalidArgument, "{bad:?}");
        }
    }

    #[test]
    fn features_are_read() {
        let mount = overlay(&["lowerdir=a", "redirect_dir=nofollow", "metacopy=on", "volatile", "userxattr"])
            .unwrap();
        assert_eq!(mount.redirect().unwrap(), Some(Redirect::NoFollow));
        assert_eq!((mount.metacopy().unwrap(), mount.index().unwrap()), (Some(true), None));
        assert!(mount.is_volatile() && mount.has_user_xattrs());
        assert!(overlay(&["lowerdir=a", "index=maybe"]).unwrap().index().is_err());
    }

    #[test]
    fn id_maps_are_runs_of_three_numbers() {
        let map = overlay(&["lowerdir=a", "uidmap=0:524288:65536,70000:1:2", "gidmap=0:1:"]).unwrap();
        assert_eq!(map.user_map().unwrap().to_outside(70001).unwrap(), 2);
        assert!(map.group_map().is_err());
        assert!(overlay(&["lowerdir=a"]).unwrap().user_map().unwrap().is_identity());
    }

    #[test]
    fn unknown_options_are_kept_and_named() {
        let mount =
            overlay(&["lowerdir=a", "xino=auto", "ro", "override_creds", "casefold=x", "nfs_export=off"])
                .unwrap();
        assert_eq!(mount.unknown_options().collect::<Vec<_>>(), ["override_creds", "casefold=x"]);
    }
}
