//! The tags filter of a subscription: which of a channel's publications a client wants, by their tags.
//!
//! A filter is parsed once, when somebody subscribes, and then asked for each publication. It grants no rights: who
//! subscribes with a filter could have subscribed without.

use std::cmp::Ordering;

use crate::centrifuge::{ErrorCode, FilterNode};
use crate::publication::Tags;

/// A filter that makes sense and is cheap to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter(Node);

/// Why a filter is none. It is error 107 for whoever subscribes with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// An operation that nobody knows.
    #[error("a filter's op is {0:?}; expected \"\", and, or, not")]
    Operation(String),
    /// A comparison that nobody knows.
    #[error("a filter's cmp is {0:?}; expected eq, neq, in, nin, ex, nex, sw, ew, ct, lt, lte, gt, gte")]
    Comparison(String),
    /// A node whose operation takes nodes, with none, or `not` with another number than one.
    #[error("a filter's {0} has {1} nodes; expected {expected}", expected = if *.0 == "not" { "one" } else { "one or more" })]
    Nodes(&'static str, usize),
    /// A comparison of nothing.
    #[error("a filter's {0} has no key; expected the name of a tag")]
    NoKey(&'static str),
    /// A comparison with too much or too little to compare with.
    #[error("a filter's {0} expects {1}")]
    Values(&'static str, &'static str),
    /// A comparison of numbers, with something else.
    #[error("a filter's {0} has the val {1:?}; expected a decimal number")]
    NotNumber(&'static str, String),
    /// Nodes inside of nodes without sense.
    #[error("a filter is nested too deeply; expected at most {MAX_DEPTH} levels")]
    TooDeep,
    /// More nodes and values than anybody should be asked for each publication.
    #[error(
        "a filter has too many nodes and values; expected at most {MAX_PARTS}, each ct, lt, lte, gt and gte counted as {SEARCH}"
    )]
    TooLong,
    /// More text than anybody should be asked for each publication.
    #[error("a filter's keys and values have too many bytes; expected at most {MAX_BYTES} in all")]
    TooBig,
}

impl FilterError {
    /// What the command that brought the filter is answered with.
    pub const fn error(&self) -> ErrorCode {
        ErrorCode::BadRequest
    }
}

/// How many nodes may be inside of each other.
pub const MAX_DEPTH: usize = 32;

/// How many nodes and values a filter may have in all.
pub const MAX_PARTS: usize = 1024;

/// How many of those a node counts as that reads the whole of a tag's value, where others stop at the first
/// difference: so the worst filter takes about a tenth of a millisecond for a publication with the longest tags (0.46
/// ms were measured with tags four times as long), and a usual one much less.
pub const SEARCH: usize = 16;

/// How many bytes a filter's keys and values may have in all.
pub const MAX_BYTES: usize = 16 << 10;

/// How many tags a publication may have.
pub const MAX_TAGS: usize = 64;

/// How many bytes a tag's name or value may have.
pub const MAX_TAG_BYTES: usize = 256;

/// Why tags are none: they would be looked at for each subscriber who has a filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TagsError {
    /// There are too many.
    #[error("there are {0} tags; expected at most {MAX_TAGS}")]
    TooMany(usize),
    /// A name or a value is too long.
    #[error("a tag's name or value has {0} bytes; expected at most {MAX_TAG_BYTES}")]
    TooLong(usize),
}

/// Whether a publication may have these tags.
///
/// # Errors
///
/// When they are too many or too long to be asked for by every filter.
pub fn check_tags(tags: &Tags) -> Result<(), TagsError> {
    if tags.len() > MAX_TAGS {
        return Err(TagsError::TooMany(tags.len()));
    }
    let longest = tags.iter().map(|(name, value)| name.len().max(value.len())).max();
    match longest {
        Some(bytes) if bytes > MAX_TAG_BYTES => Err(TagsError::TooLong(bytes)),
        _ => Ok(()),
    }
}

/// What of a filter is left to be used up.
struct Budget {
    parts: usize,
    bytes: usize,
}

impl Budget {
    fn spend(&mut self, node: &FilterNode) -> Result<(), FilterError> {
        let searches = matches!(&node.cmp[..], "ct" | "lt" | "lte" | "gt" | "gte");
        let parts = node.vals.len() + if searches { SEARCH } else { 1 };
        self.parts = self.parts.checked_sub(parts).ok_or(FilterError::TooLong)?;
        let bytes = node.key.len() + node.val.len() + node.vals.iter().map(String::len).sum::<usize>();
        self.bytes = self.bytes.checked_sub(bytes).ok_or(FilterError::TooBig)?;
        Ok(())
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    All(Vec<Node>),
    Any(Vec<Node>),
    Not(Box<Node>),
    Tag(String, Test),
}

/// What is asked of one tag.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Test {
    Equals(String),
    Differs(String),
    OneOf(Vec<String>),
    NoneOf(Vec<String>),
    Exists,
    Missing,
    StartsWith(String),
    EndsWith(String),
    Contains(String),
    /// The tag is a number, and compares to this one as one of these.
    Compares(&'static [Ordering], String),
}

impl Filter {
    /// Parses a filter as a client sent it.
    ///
    /// # Errors
    ///
    /// When it has no meaning, or asks too much.
    pub fn parse(node: FilterNode) -> Result<Self, FilterError> {
        let mut left = Budget { parts: MAX_PARTS, bytes: MAX_BYTES };
        parse(node, MAX_DEPTH, &mut left).map(Self)
    }

    /// Whether a publication with these tags is wanted; with `None` it has none.
    pub fn matches(&self, tags: Option<&Tags>) -> bool {
        self.0.matches(tags)
    }

    /// How much memory it takes, in bytes, about.
    pub fn bytes(&self) -> usize {
        self.0.bytes()
    }
}

impl Node {
    fn bytes(&self) -> usize {
        let inside = match self {
            Self::All(nodes) | Self::Any(nodes) => nodes.iter().map(Self::bytes).sum(),
            Self::Not(node) => node.bytes(),
            Self::Tag(key, test) => key.len() + test.bytes(),
        };
        size_of::<Self>() + inside
    }

    fn matches(&self, tags: Option<&Tags>) -> bool {
        match self {
            Self::All(nodes) => nodes.iter().all(|node| node.matches(tags)),
            Self::Any(nodes) => nodes.iter().any(|node| node.matches(tags)),
            Self::Not(node) => !node.matches(tags),
            Self::Tag(key, test) => test.passes(tags.and_then(|tags| tags.get(key)).map(String::as_str)),
        }
    }
}

impl Test {
    /// What it keeps beside itself.
    fn bytes(&self) -> usize {
        match self {
            Self::OneOf(values) | Self::NoneOf(values) => {
                values.iter().map(|value| size_of::<String>() + value.len()).sum()
            }
            Self::Exists | Self::Missing => 0,
            Self::Equals(value)
            | Self::Differs(value)
            | Self::StartsWith(value)
            | Self::EndsWith(value)
            | Self::Contains(value)
            | Self::Compares(_, value) => value.len(),
        }
    }

    /// What is not there equals nothing, and differs from everything; in a list it counts as empty.
    fn passes(&self, value: Option<&str>) -> bool {
        let among = |list: &[String]| list.iter().any(|one| one == value.unwrap_or_default());
        match self {
            Self::Equals(other) => value == Some(other),
            Self::Differs(other) => value != Some(other),
            Self::OneOf(list) => among(list),
            Self::NoneOf(list) => !among(list),
            Self::Exists => value.is_some(),
            Self::Missing => value.is_none(),
            Self::StartsWith(part) => value.is_some_and(|value| value.starts_with(part)),
            Self::EndsWith(part) => value.is_some_and(|value| value.ends_with(part)),
            Self::Contains(part) => value.is_some_and(|value| value.contains(part)),
            Self::Compares(orders, other) => {
                let numbers = value.and_then(Decimal::parse).zip(Decimal::parse(other));
                numbers.is_some_and(|(value, other)| orders.contains(&value.cmp(&other)))
            }
        }
    }
}

fn parse(node: FilterNode, depth: usize, left: &mut Budget) -> Result<Node, FilterError> {
    let depth = depth.checked_sub(1).ok_or(FilterError::TooDeep)?;
    left.spend(&node)?;
    let name = match &node.op[..] {
        "" => return parse_tag(node),
        "and" => "and",
        "or" => "or",
        "not" => "not",
        _ => return Err(FilterError::Operation(node.op)),
    };
    let count = node.nodes.len();
    if count == 0 || (name == "not" && count != 1) {
        return Err(FilterError::Nodes(name, count));
    }
    let mut nodes = Vec::new();
    for node in node.nodes {
        nodes.push(parse(node, depth, left)?);
    }
    Ok(match name {
        "and" => Node::All(nodes),
        "or" => Node::Any(nodes),
        _ => Node::Not(Box::new(nodes.remove(0))),
    })
}

fn parse_tag(node: FilterNode) -> Result<Node, FilterError> {
    let FilterNode { key, cmp, val, vals, .. } = node;
    let name = COMPARISONS.iter().find(|name| **name == cmp).ok_or(FilterError::Comparison(cmp))?;
    match *name {
        "ex" | "nex" if val.is_empty() && vals.is_empty() => {}
        "ex" | "nex" => return Err(FilterError::Values(name, "neither val nor vals")),
        _ if key.is_empty() => return Err(FilterError::NoKey(name)),
        "in" | "nin" if val.is_empty() && !vals.is_empty() => {}
        "in" | "nin" => return Err(FilterError::Values(name, "vals, and no val")),
        _ if val.is_empty() || !vals.is_empty() => {
            return Err(FilterError::Values(name, "a val, and no vals"));
        }
        "lt" | "lte" | "gt" | "gte" if Decimal::parse(&val).is_none() => {
            return Err(FilterError::NotNumber(name, val));
        }
        _ => {}
    }
    let test = match *name {
        "eq" => Test::Equals(val),
        "neq" => Test::Differs(val),
        "in" => Test::OneOf(vals),
        "nin" => Test::NoneOf(vals),
        "ex" => Test::Exists,
        "nex" => Test::Missing,
        "sw" => Test::StartsWith(val),
        "ew" => Test::EndsWith(val),
        "ct" => Test::Contains(val),
        "lt" => Test::Compares(&[Ordering::Less], val),
        "lte" => Test::Compares(&[Ordering::Less, Ordering::Equal], val),
        "gt" => Test::Compares(&[Ordering::Greater], val),
        _ => Test::Compares(&[Ordering::Greater, Ordering::Equal], val),
    };
    Ok(Node::Tag(key, test))
}

const COMPARISONS: [&str; 13] =
    ["eq", "neq", "in", "nin", "ex", "nex", "sw", "ew", "ct", "lt", "lte", "gt", "gte"];

/// A decimal number of any size: a sign, digits, perhaps a point and digits. Compared exactly, where a float would
/// take two long ids for the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Decimal<'a> {
    negative: bool,
    /// Without zeros before.
    whole: &'a str,
    /// Without zeros behind.
    fraction: &'a str,
}

impl<'a> Decimal<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let negative = text.starts_with('-');
        let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
        let all_digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if !all_digits(whole) || !all_digits(fraction) {
            return None;
        }
        let (whole, fraction) = (whole.trim_start_matches('0'), fraction.trim_end_matches('0'));
        Some(Self { negative: negative && !(whole.is_empty() && fraction.is_empty()), whole, fraction })
    }

    fn cmp(&self, other: &Self) -> Ordering {
        let size = |a: &Self, b: &Self| {
            (a.whole.len(), a.whole, a.fraction).cmp(&(b.whole.len(), b.whole, b.fraction))
        };
        match (self.negative, other.negative) {
            (false, false) => size(self, other),
            (true, true) => size(other, self),
            (true, false) => Ordering::Less,
            (false, true) => Ordering::Greater,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(key: &str, cmp: &str, val: &str, vals: &[&str]) -> FilterNode {
        let vals = vals.iter().map(|&val| val.to_owned()).collect();
        FilterNode { key: key.into(), cmp: cmp.into(), val: val.into(), vals, ..Default::default() }
    }

    fn node(op: &str, nodes: Vec<FilterNode>) -> FilterNode {
        FilterNode { op: op.into(), nodes, ..Default::default() }
    }

    #[test]
    fn tags_are_compared() {
        let tags =
            [("team", "red"), ("count", "10"), ("price", "-1.50"), ("id", "9007199254740993"), ("empty", "")];
        let tags = Tags::from(tags.map(|(name, value)| (name.to_owned(), value.to_owned())));
        let check = |filter: FilterNode, expected: bool| {
            let parsed = Filter::parse(filter.clone()).expect("a filter");
            assert_eq!(parsed.matches(Some(&tags)), expected, "{filter:?}");
        };
        for (key, cmp, val, expected) in [
            ("team", "eq", "red", true),
            ("team", "eq", "Red", false),
            ("none", "eq", "red", false),
            ("team", "neq", "red", false),
            ("team", "neq", "blue", true),
            ("none", "neq", "red", true),
            ("team", "ex", "", true),
            ("empty", "ex", "", true),
            ("none", "ex", "", false),
            ("team", "nex", "", false),
            ("none", "nex", "", true),
            ("team", "sw", "re", true),
            ("team", "sw", "ed", false),
            ("none", "sw", "r", false),
            ("team", "ew", "ed", true),
            ("team", "ew", "re", false),
            ("team", "ct", "e", true),
            ("team", "ct", "x", false),
            ("none", "ct", "x", false),
            ("count", "gt", "9", true),
            ("count", "gt", "10", false),
            ("count", "gte", "10.000", true),
            ("count", "gte", "010", true),
            ("count", "gte", "10.0001", false),
            ("count", "lt", "100", true),
            ("count", "lt", "-100", false),
            ("count", "lte", "+10", true),
            ("count", "lte", "9.999", false),
            ("price", "lt", "0", true),
            ("price", "lt", "-1.5", false),
            ("price", "lte", "-1.5", true),
            ("price", "gt", "-1.51", true),
            ("price", "gt", "-10", true),
            ("price", "gt", "-0.0", false),
            ("id", "gt", "9007199254740992", true),
            ("id", "lt", "90071992547409930000000000000000000000000", true),
            ("team", "gt", "1", false),
            ("team", "lte", "1", false),
            ("empty", "gt", "1", false),
            ("none", "gt", "1", false),
        ] {
            check(tag(key, cmp, val, &[]), expected);
        }
        for (key, cmp, vals, expected) in [
            ("team", "in", &["blue", "red"][..], true),
            ("team", "in", &["blue"], false),
            ("none", "in", &["blue"], false),
            ("none", "in", &[""], true),
            ("team", "nin", &["blue", "red"], false),
            ("team", "nin", &["blue"], true),
            ("none", "nin", &["blue"], true),
        ] {
            check(tag(key, cmp, "", vals), expected);
        }
        let (yes, no) = (|| tag("team", "ex", "", &[]), || tag("team", "nex", "", &[]));
        check(node("and", vec![yes(), yes()]), true);
        check(node("and", vec![yes(), no()]), false);
        check(node("or", vec![no(), yes()]), true);
        check(node("or", vec![no(), no()]), false);
        check(node("not", vec![no()]), true);
        assert!(Filter::parse(no()).expect("a filter").matches(None));
        check(node("not", vec![node("or", vec![no(), node("and", vec![yes(), yes()])])]), false);
    }

    #[test]
    fn what_has_no_meaning_is_refused() {
        let check = |filter: FilterNode, expected: &str| {
            let error = Filter::parse(filter).expect_err("no filter");
            assert_eq!(error.to_string(), expected);
            assert_eq!(error.error(), ErrorCode::BadRequest);
        };
        let yes = || tag("k", "ex", "", &[]);
        check(node("xor", vec![yes()]), r#"a filter's op is "xor"; expected "", and, or, not"#);
        check(
            FilterNode::default(),
            r#"a filter's cmp is ""; expected eq, neq, in, nin, ex, nex, sw, ew, ct, lt, lte, gt, gte"#,
        );
        check(
            tag("k", "EQ", "v", &[]),
            r#"a filter's cmp is "EQ"; expected eq, neq, in, nin, ex, nex, sw, ew, ct, lt, lte, gt, gte"#,
        );
        check(node("and", vec![]), "a filter's and has 0 nodes; expected one or more");
        check(node("or", vec![]), "a filter's or has 0 nodes; expected one or more");
        check(node("not", vec![]), "a filter's not has 0 nodes; expected one");
        check(node("not", vec![yes(), yes()]), "a filter's not has 2 nodes; expected one");
        check(tag("", "eq", "v", &[]), "a filter's eq has no key; expected the name of a tag");
        check(tag("k", "eq", "", &[]), "a filter's eq expects a val, and no vals");
        check(tag("k", "eq", "v", &["v"]), "a filter's eq expects a val, and no vals");
        check(tag("k", "in", "v", &["v"]), "a filter's in expects vals, and no val");
        check(tag("k", "nin", "", &[]), "a filter's nin expects vals, and no val");
        check(tag("k", "ex", "v", &[]), "a filter's ex expects neither val nor vals");
        for number in ["x", "1e3", "1.", ".5", "--1", "1,5", " 1", "NaN", "０"] {
            let expected = format!("a filter's lt has the val {number:?}; expected a decimal number");
            check(tag("k", "lt", number, &[]), &expected);
        }
        let deep = |depth| (1..depth).fold(yes(), |inner, _| node("not", vec![inner]));
        assert!(Filter::parse(deep(MAX_DEPTH)).is_ok());
        check(deep(MAX_DEPTH + 1), "a filter is nested too deeply; expected at most 32 levels");
        let wide = |nodes| node("or", vec![yes(); nodes]);
        assert!(Filter::parse(wide(MAX_PARTS - 1)).is_ok());
        let long = "a filter has too many nodes and values; expected at most 1024, each ct, lt, lte, gt and gte counted as 16";
        check(wide(MAX_PARTS), long);
        check(tag("k", "in", "", &["v"; MAX_PARTS]), long);
        // The `or` around them is one.
        let searching = |cmp: &str, nodes| node("or", vec![tag("k", cmp, "1", &[]); nodes]);
        for cmp in ["ct", "lt", "lte", "gt", "gte"] {
            assert!(Filter::parse(searching(cmp, MAX_PARTS / SEARCH - 1)).is_ok(), "{cmp}");
            check(searching(cmp, MAX_PARTS / SEARCH), long);
        }
        let value = |bytes| "v".repeat(bytes);
        assert!(Filter::parse(tag("k", "eq", &value(MAX_BYTES - 1), &[])).is_ok());
        let big = "a filter's keys and values have too many bytes; expected at most 16384 in all";
        check(tag("k", "eq", &value(MAX_BYTES), &[]), big);
        check(tag("k", "in", "", &[value(MAX_BYTES / 2).as_str(); 2]), big);
        check(tag(&value(MAX_BYTES + 1), "ex", "", &[]), big);
    }

    #[test]
    fn tags_are_few_and_short() {
        let tags = |count: usize, name: usize, value: usize| -> Tags {
            (0..count).map(|n| (format!("{n:0name$}"), "v".repeat(value))).collect()
        };
        for (count, name, value, expected) in [
            (0, 2, 0, Ok(())),
            (MAX_TAGS, MAX_TAG_BYTES, MAX_TAG_BYTES, Ok(())),
            (MAX_TAGS + 1, 2, 1, Err("there are 65 tags; expected at most 64")),
            (1, MAX_TAG_BYTES + 1, 1, Err("a tag's name or value has 257 bytes; expected at most 256")),
            (1, 2, 20_000, Err("a tag's name or value has 20000 bytes; expected at most 256")),
        ] {
            let checked = check_tags(&tags(count, name, value)).map_err(|error| error.to_string());
            assert_eq!(checked, expected.map_err(str::to_owned));
        }
    }
}
