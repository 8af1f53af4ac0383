//! Filters for walks, in containerd's syntax (`pkg/filters`).
//!
//! ```text
//! selectors ::= selector ("," selector)*          all of them must hold
//! selector  ::= fieldpath (operator value)?       without an operator: the field is there
//! fieldpath ::= field ("." field)*
//! field     ::= quoted | [A-Za-z0-9_]+
//! operator  ::= "==" | "!=" | "~="                "~=" takes a regular expression, anywhere in the value
//! value     ::= quoted | [^ \t\n,]+
//! quoted    ::= '"' … '"', with the escapes of Go; after "~=" also "/" … "/" and "|" … "|"
//! ```
//!
//! Several filters are alternatives: one that holds is enough, and no filter at all lets everything pass.

use std::{iter::Peekable, str::CharIndices};

use layer_model::{Error, ErrorKind, Result};
use regex::Regex;

/// What a filter can ask: fields by path.
pub trait Fields {
    /// The value of the field at this path, when it is there.
    fn field(&self, path: &[String]) -> Option<&str>;
}

/// Parsed filters. The default lets everything pass.
#[derive(Clone, Debug, Default)]
pub struct Filters(Vec<Vec<Selector>>);

#[derive(Clone, Debug)]
struct Selector {
    path: Vec<String>,
    test: Test,
}

#[derive(Clone, Debug)]
enum Test {
    Present,
    Equal(String),
    NotEqual(String),
    Matches(Regex),
}

impl Filters {
    /// Lets everything pass.
    pub fn all() -> Self {
        Self::default()
    }

    /// Parses filters, of which one has to hold.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] with the position in the text, in bytes.
    pub fn parse(filters: impl IntoIterator<Item = impl AsRef<str>>) -> Result<Self> {
        filters
            .into_iter()
            .map(|text| Parser::new(text.as_ref()).selectors())
            .collect::<Result<_>>()
            .map(Self)
    }

    /// Whether something with these fields passes.
    pub fn matches(&self, fields: &dyn Fields) -> bool {
        self.0.is_empty() || self.0.iter().any(|all| all.iter().all(|selector| selector.matches(fields)))
    }
}

impl Selector {
    fn matches(&self, fields: &dyn Fields) -> bool {
        let value = fields.field(&self.path);
        match &self.test {
            Test::Present => value.is_some(),
            Test::Equal(wanted) => value == Some(wanted),
            // An absent field differs from everything, and matches as the empty text: as containerd has it.
            Test::NotEqual(unwanted) => value.unwrap_or_default() != unwanted,
            Test::Matches(regex) => regex.is_match(value.unwrap_or_default()),
        }
    }
}

/// The field `labels.<key>`: the key may have been quoted, or its dots taken for separators.
pub(crate) fn label<'a>(labels: &'a crate::Labels, path: &[String]) -> Option<&'a str> {
    labels.get(&path.join(".")).map(String::as_str)
}

struct Parser<'a> {
    text: &'a str,
    rest: Peekable<CharIndices<'a>>,
}

impl<'a> Parser<'a> {
    fn new(text: &'a str) -> Self {
        Self { text, rest: text.char_indices().peekable() }
    }

    fn fail<T>(&mut self, why: &str) -> Result<T> {
        let at = self.rest.peek().map_or(self.text.len(), |(at, _)| *at);
        Err(Error::new(ErrorKind::InvalidArgument, format!("filter {:?}: {why}", self.text))
            .offset(at as u64))
    }

    fn peek(&mut self) -> Option<char> {
        self.rest.peek().map(|(_, c)| *c)
    }

    fn skip_space(&mut self) {
        while self.rest.next_if(|(_, c)| c.is_whitespace()).is_some() {}
    }

    fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> String {
        let mut taken = String::new();
        while let Some((_, c)) = self.rest.next_if(|(_, c)| wanted(*c)) {
            taken.push(c);
        }
        taken
    }

    fn selectors(mut self) -> Result<Vec<Selector>> {
        let mut all = Vec::new();
        if self.text.is_empty() {
            return Ok(all);
        }
        loop {
            all.push(self.selector()?);
            self.skip_space();
            match self.peek() {
                None => return Ok(all),
                Some(',') => {
                    self.rest.next();
                }
                Some(_) => return self.fail("expected a comma or the end"),
            }
        }
    }

    fn selector(&mut self) -> Result<Selector> {
        let mut path = vec![self.field()?];
        loop {
            self.skip_space();
            if self.rest.next_if(|(_, c)| *c == '.').is_none() {
                break;
            }
            path.push(self.field()?);
        }
        if matches!(self.peek(), None | Some(',')) {
            return Ok(Selector { path, test: Test::Present });
        }
        let test = match self.take_while(|c| "=!~".contains(c)).as_str() {
            "==" => Test::Equal(self.value(false)?),
            "!=" => Test::NotEqual(self.value(false)?),
            "~=" => {
                let value = self.value(true)?;
                match Regex::new(&value) {
                    Ok(regex) => Test::Matches(regex),
                    Err(error) => return self.fail(&format!("{value:?} is no regular expression: {error}")),
                }
            }
            "" => return self.fail("expected an operator"),
            other => return self.fail(&format!("unknown operator {other:?}")),
        };
        Ok(Selector { path, test })
    }

    fn field(&mut self) -> Result<String> {
        self.skip_space();
        if self.peek() == Some('"') {
            return self.quoted();
        }
        let field = self.take_while(|c| c == '_' || c.is_ascii_alphanumeric());
        if field.is_empty() { self.fail("expected a field") } else { Ok(field) }
    }

    fn value(&mut self, alternative_quotes: bool) -> Result<String> {
        self.skip_space();
        match self.peek() {
            Some('"') => self.quoted(),
            Some('/' | '|') if alternative_quotes => self.quoted(),
            Some('/' | '|') => self.fail("this quote is for regular expressions only"),
            // These begin another token for containerd, too.
            None | Some(',' | '.' | '=' | '!' | '~') => self.fail("expected a value"),
            Some(_) => Ok(self.take_while(|c| c != ',' && !c.is_whitespace() && !c.is_control())),
        }
    }

    fn quoted(&mut self) -> Result<String> {
        let Some((_, quote)) = self.rest.next() else { return self.fail("expected a quote") };
        let mut text = String::new();
        loop {
            match self.rest.next() {
                None => return self.fail("a quote is not closed"),
                Some((_, c)) if c == quote => return Ok(text),
                Some((_, '\\')) => text.push(self.escape(quote)?),
                Some((_, '\n')) => return self.fail("a line ends inside quotes"),
                Some((_, c)) => text.push(c),
            }
        }
    }

    /// The character that a backslash and what follows stand for, as in a Go string.
    fn escape(&mut self, quote: char) -> Result<char> {
        let (radix, digits, first) = match self.rest.next().map(|(_, c)| c) {
            None => return self.fail("a quote is not closed"),
            Some(c) if c == quote => return Ok(quote),
            Some('x') => (16, 2, 0),
            Some('u') => (16, 4, 0),
            Some('U') => (16, 8, 0),
            Some(c @ '0'..='7') => (8, 2, u32::from(c) - u32::from('0')),
            Some(c) => match r"abfnrtv\".find(c).and_then(|at| "\x07\x08\x0c\n\r\t\x0b\\".chars().nth(at)) {
                Some(c) => return Ok(c),
                None => return self.fail("unknown escape"),
            },
        };
        let mut code = first;
        for _ in 0..digits {
            match self.rest.next().and_then(|(_, c)| c.to_digit(radix)) {
                Some(digit) => code = (code << radix.trailing_zeros()) | digit,
                None => return self.fail("expected a digit of the escape"),
            }
        }
        // Go makes single bytes of the two short forms; above ASCII those would not be text.
        if digits == 2 && code > 0x7f {
            return self.fail("this escape is not text");
        }
        char::from_u32(code).map_or_else(|| self.fail("no such character"), Ok)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Fields of a thing with a name and labels, as containerd's own tests have it.
    struct Thing(&'static str, BTreeMap<String, String>);

    impl Fields for Thing {
        fn field(&self, path: &[String]) -> Option<&str> {
            match path[0].as_str() {
                "name" => Some(self.0),
                "labels" => label(&self.1, &path[1..]),
                _ => None,
            }
        }
    }

    fn things() -> Vec<Thing> {
        let thing = |name, labels: &[(&str, &str)]| {
            Thing(name, labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
        };
        vec![
            thing("foo", &[("foo", "true")]),
            thing("bar", &[]),
            thing("foo", &[("foo", "present"), ("more complex label", "present")]),
            thing("fooer", &[(r#"with \ and ""#, "present")]),
            thing("fooer", &[(r#"with \ and ".post"#, "present")]),
            thing("too complex, yo", &[("foo", "omg_asdf.asdf-qwer")]),
        ]
    }

    #[test]
    fn filters_select_as_containerd_does() {
        for (filters, wanted) in [
            (vec![], vec![0, 1, 2, 3, 4, 5]),
            (vec![""], vec![0, 1, 2, 3, 4, 5]),
            (vec!["name"], vec![0, 1, 2, 3, 4, 5]),
            (vec!["labels.foo"], vec![0, 2, 5]),
            (vec!["labels.foo , name"], vec![0, 2, 5]),
            (vec!["labels.foo==true"], vec![0]),
            (vec!["labels.foo==omg_asdf.asdf-qwer"], vec![5]),
            (vec!["name!=foo"], vec![1, 3, 4, 5]),
            (vec!["labels.foo!=true"], vec![1, 2, 3, 4, 5]),
            (vec![r#"name=="too complex, yo""#], vec![5]),
            (vec!["name~=^fo+$"], vec![0, 2]),
            (vec!["name~=/o{2,3}e/"], vec![3, 4]),
            (vec!["name~=|com|"], vec![5]),
            (vec![r#"name~=/[abc]{0,1}"\//,name!=foo"#], vec![]),
            (vec![r"name~=/\\w{5}/"], vec![3, 4, 5]),
            (vec![r#"labels."more complex label""#], vec![2]),
            (vec![r#"labels."with \\ and \""==present"#], vec![3]),
            (vec![r#"labels."with \\ and \"".post==present"#], vec![4]),
            (vec![r#"labels."f\x6f\u006f"==true"#], vec![0]),
            (vec!["name==bar", "labels.foo==true"], vec![0, 1]),
            (vec!["unknown"], vec![]),
        ] {
            let parsed = Filters::parse(&filters).unwrap();
            let got: Vec<_> =
                things().iter().enumerate().filter(|(_, t)| parsed.matches(*t)).map(|(n, _)| n).collect();
            assert_eq!(got, wanted, "{filters:?}");
        }
    }

    #[test]
    fn broken_filters_say_where() {
        for (filter, at) in [
            ("name==foo,", 10),
            ("labels.", 7),
            ("image~=,id", 7),
            ("labels.|foo|==x", 7),
            ("labels.ns/key==value", 9),
            ("labels.key==/value/", 12),
            ("labels.key~=/value", 18),
            ("name=foo", 5),
            ("name===foo", 7),
            ("name ~= (", 9),
            (r#"name=="\q""#, 9),
            ("name==a b", 8),
        ] {
            let error = Filters::parse([filter]).unwrap_err();
            assert_eq!(error.kind(), &ErrorKind::InvalidArgument, "{filter}");
            assert_eq!(error.byte_offset(), Some(at), "{filter}: {error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in r#"([a-z."/|\\=!~,x0-9 ]|\PC){0,24}"#) {
            let _ = Filters::parse([text]);
        }
    }
}
