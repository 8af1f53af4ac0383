//! Texts that name the mounts before them: `{{ mount 0 }}/upper`.
//!
//! containerd expands them with a general template language. Exactly the four forms that its snapshotters
//! use are understood here, with any white space inside the braces; everything else with `{{` is an error,
//! as an expansion that was not meant would be a wrong path.

use layer_model::{Error, ErrorKind, Result};

/// A text with places for the mount points, sources and targets of earlier mounts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Template {
    parts: Vec<Part>,
}

/// A piece of a [`Template`]. Numbers are those of mounts in the list, 0 first.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// Text.
    Text(String),
    /// `{{ mount N }}`: where a mount is mounted.
    Mount(usize),
    /// `{{ overlay A B }}`: where the mounts from A to B are mounted, up or down, as a list of layers.
    Overlay(usize, usize),
    /// `{{ source N }}`: the source of a mount.
    Source(usize),
    /// `{{ target N }}`: the target of a mount.
    Target(usize),
}

/// What is known of a mount once it is mounted.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Activated {
    /// Where it is mounted.
    pub mount_point: String,
    /// Its source, expanded.
    pub source: String,
    /// Its target, expanded.
    pub target: String,
}

impl Activated {
    /// A mount at `mount_point`, of which nothing else is needed.
    pub fn at(mount_point: impl Into<String>) -> Self {
        Self { mount_point: mount_point.into(), ..Self::default() }
    }
}

impl Template {
    /// Takes a text apart.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for a `{{` that begins none of the four forms.
    pub fn parse(text: &str) -> Result<Self> {
        let bad = || Error::new(ErrorKind::InvalidArgument, format!("unknown template in {text:?}"));
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("{{") {
            let (inside, after) = after.split_once("}}").ok_or_else(bad)?;
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            parts.push(parse_part(inside).ok_or_else(bad)?);
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        Ok(Self { parts })
    }

    /// The pieces.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// Whether there is nothing to expand.
    pub fn is_text(&self) -> bool {
        self.parts.iter().all(|part| matches!(part, Part::Text(_)))
    }

    /// Puts in what is known of the mounts.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for the number of a mount that is not among `earlier`.
    pub fn expand(&self, earlier: &[Activated]) -> Result<String> {
        self.expand_with(earlier, |path| path.to_owned())
    }

    /// The same, with paths escaped as values of overlay options have to be.
    ///
    /// # Errors
    /// As [`Template::expand`].
    pub fn expand_escaped(&self, earlier: &[Activated]) -> Result<String> {
        self.expand_with(earlier, crate::overlay::escape)
    }

    fn expand_with(&self, earlier: &[Activated], write: impl Fn(&str) -> String) -> Result<String> {
        let get = |number: usize| {
            let missing = || {
                Error::new(
                    ErrorKind::InvalidArgument,
                    format!("template names mount {number}, which is none before it"),
                )
            };
            earlier.get(number).ok_or_else(missing)
        };
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Text(part) => text.push_str(part),
                Part::Mount(number) => text.push_str(&write(&get(*number)?.mount_point)),
                Part::Source(number) => text.push_str(&write(&get(*number)?.source)),
                Part::Target(number) => text.push_str(&write(&get(*number)?.target)),
                Part::Overlay(from, to) => {
                    // Before a list is made of them: both ends are as far as a caller can make it go.
                    get(*from)?;
                    get(*to)?;
                    let points = range(*from, *to).map(|n| get(n).map(|mount| write(&mount.mount_point)));
                    text.push_str(&points.collect::<Result<Vec<_>>>()?.join(":"));
                }
            }
        }
        Ok(text)
    }

    /// The numbers of the mounts that are mount points in the text, in the order of the text; [`None`] when
    /// there is anything else in it but `:` between them.
    pub fn mounts(&self) -> Option<Vec<usize>> {
        let mut numbers = Vec::new();
        for part in &self.parts {
            match part {
                Part::Text(text) if text == ":" => {}
                part => numbers.extend(part.mounts()?),
            }
        }
        Some(numbers)
    }
}

impl Part {
    /// The numbers of the mounts that are mount points in the piece, in order; [`None`] for other pieces.
    pub(crate) fn mounts(&self) -> Option<Vec<usize>> {
        match self {
            Self::Mount(number) => Some(vec![*number]),
            // No list of mounts is that long; it keeps a hostile number from making one.
            Self::Overlay(from, to) if from.abs_diff(*to) < 4096 => Some(range(*from, *to).collect()),
            _ => None,
        }
    }
}

fn range(from: usize, to: usize) -> Box<dyn Iterator<Item = usize>> {
    if from <= to { Box::new(from..=to) } else { Box::new((to..=from).rev()) }
}

fn parse_part(inside: &str) -> Option<Part> {
    let mut words = inside.split_ascii_whitespace();
    let name = words.next()?;
    let numbers: Vec<usize> = words.map(|word| word.parse().ok()).collect::<Option<_>>()?;
    match (name, numbers.as_slice()) {
        ("mount", [number]) => Some(Part::Mount(*number)),
        ("overlay", [from, to]) => Some(Part::Overlay(*from, *to)),
        ("source", [number]) => Some(Part::Source(*number)),
        ("target", [number]) => Some(Part::Target(*number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expand(text: &str) -> Result<String> {
        let mount = |n: usize| Activated {
            mount_point: format!("/m/{n}"),
            source: format!("/s{n}"),
            target: format!("t{n}"),
        };
        Template::parse(text)?.expand(&[mount(0), mount(1), mount(2)])
    }

    #[test]
    fn the_four_forms_are_expanded() {
        for (text, want) in [
            ("plain", "plain"),
            ("{{ mount 0 }}/upper", "/m/0/upper"),
            ("a{{mount 2}}b{{  source 1\t}}c{{ target 0 }}", "a/m/2b/s1ct0"),
            ("{{ overlay 0 2 }}", "/m/0:/m/1:/m/2"),
            ("{{ overlay 2 1 }}", "/m/2:/m/1"),
            ("{{ overlay 1 1 }}", "/m/1"),
            ("a}}b{c}", "a}}b{c}"),
        ] {
            assert_eq!(expand(text).unwrap(), want, "{text}");
        }
    }

    #[test]
    fn everything_else_in_double_braces_is_an_error() {
        for bad in [
            "{{",
            "{{ mount 0",
            "{{}}",
            "{{ mount }}",
            "{{ mount 0 1 }}",
            "{{ mount -1 }}",
            "{{ mount 3 }}",
            "{{ overlay 0 }}",
            "{{ overlay 0 3 }}",
            "{{ overlay 99999999999 0 }}",
            "{{ mounts 0 }}",
            "{{ .Source }}",
            "{{ mount 0 | quote }}",
            "{{ mount 18446744073709551616 }}",
        ] {
            assert_eq!(expand(bad).unwrap_err().kind(), &ErrorKind::InvalidArgument, "{bad}");
        }
    }

    #[test]
    fn lists_of_mounts_can_be_told_before_they_are_mounted() {
        let mounts = |text| Template::parse(text).unwrap().mounts();
        assert_eq!(mounts("{{ overlay 1 3 }}:{{ mount 0 }}"), Some(vec![1, 2, 3, 0]));
        assert_eq!(mounts("{{ overlay 3 1 }}"), Some(vec![3, 2, 1]));
        assert_eq!(mounts("{{ mount 0 }}/upper"), None);
        assert_eq!(mounts("{{ overlay 0 18446744073709551615 }}"), None);
    }
}
