//! Merging and patching JSON, JSON with comments and JSON5 without touching what is not changed: comments, order of keys, layout.
//!
//! The text is edited through its concrete syntax tree, and what comes out is parsed again: it must be exactly the value that was
//! wanted, else there is no result.

use std::collections::HashMap;

use jsonc_parser::cst::{CstInputValue, CstNode, CstObject, CstRootNode};
use jsonc_parser::{ParseOptions, errors::ParseError};
use serde_json::{Map, Number, Value};

use super::text;

/// The parser goes 512 levels deep and recurses, as does everything here; blocking threads have small stacks. Only touched pages count.
const STACK_BYTES: usize = 32 * 1024 * 1024;

const BOM: char = '\u{feff}';

/// Why a patch was not applied.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum PatchError {
    /// The file is not something that can be patched.
    #[error("the file is not JSON or JSON5 that can be edited: {0}")]
    NotJson(String),
    /// The machine has no thread to spare, or the parser failed in an unknown way.
    #[error("the patch could not be applied")]
    Failed,
}

/// A patched file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Patched {
    /// The whole new content.
    pub(crate) content: String,
    /// Every comment of the old content is in the new one.
    pub(crate) comments_kept: bool,
}

/// Runs recursive work where there is room for it. `None` when it panicked or no thread could be made.
pub(super) fn deep<T: Send>(work: impl FnOnce() -> T + Send) -> Option<T> {
    std::thread::scope(|scope| {
        let builder = std::thread::Builder::new().name("json".to_owned()).stack_size(STACK_BYTES);
        builder.spawn_scoped(scope, work).ok()?.join().ok()
    })
}

/// The value of a JSON, JSON with comments or JSON5 text; on failure, why it has none.
pub(crate) fn value(text: &str) -> Result<Value, String> {
    deep(|| Document::parse(text).map(|document| document.value))
        .unwrap_or_else(|| Err("it could not be read".to_owned()))
}

/// Applies a merge patch (RFC 7396) to the text of a file.
pub(crate) fn patch(original: &str, patch: &Value) -> Result<Patched, PatchError> {
    deep(|| {
        let document = Document::parse(original).map_err(PatchError::NotJson)?;
        let mut wanted = document.value.clone();
        merge_patch(&mut wanted, patch);
        if let Some(content) = document.edited(&wanted) {
            let comments_kept = contains(&comments_of(&content), &comments_of(original));
            return Ok(Patched { content, comments_kept });
        }
        // Odd, for example a key that is there twice: only writing it anew gives the wanted value.
        let content = serde_json::to_string_pretty(&wanted).map_err(|_| PatchError::Failed)? + "\n";
        Ok(Patched { comments_kept: comments_of(original).is_empty(), content })
    })
    .unwrap_or(Err(PatchError::Failed))
}

/// See [`super::three_way`]. Keys are what is merged; lists and single values are taken whole.
pub(super) fn three_way(base: &str, ours: &str, theirs: &str) -> Option<String> {
    deep(|| {
        let (before, here, there) =
            (Document::parse(base).ok()?, Document::parse(ours).ok()?, Document::parse(theirs).ok()?);
        let wanted = merge_values(Some(&before.value), Some(&here.value), Some(&there.value))??;
        let (old, new) = (comments_of(base), comments_of(theirs));
        // By lines, both sides keep their comments and layout; that it also is the right value has to be shown.
        if let Some(merged) = text::three_way(base, ours, theirs)
            && Document::parse(&merged).is_ok_and(|document| document.value == wanted)
        {
            let kept = comments_of(&merged);
            let added = minus(&new, &old);
            if contains(&kept, &added) && contains(&kept, &minus(&comments_of(ours), &old)) {
                return Some(merged);
            }
        }
        // By keys, onto our text. A comment that they wrote would be lost.
        if !contains(&old, &new) {
            return None;
        }
        here.edited(&wanted).filter(|merged| contains(&comments_of(merged), &comments_of(ours)))
    })
    .flatten()
}

/// A parsed text.
struct Document {
    bom: bool,
    root: CstRootNode,
    value: Value,
}

impl Document {
    fn parse(text: &str) -> Result<Self, String> {
        let options = ParseOptions { allow_missing_commas: false, ..ParseOptions::default() };
        let stripped = text.strip_prefix(BOM);
        let root =
            CstRootNode::parse(stripped.unwrap_or(text), &options).map_err(|error: ParseError| error.to_string())?;
        let value = root.value().ok_or("there is no value")?;
        let value = value_of(&value)?;
        Ok(Self { bom: stripped.is_some(), root, value })
    }

    /// The text with another value; `None` when it cannot be had by editing.
    fn edited(&self, wanted: &Value) -> Option<String> {
        match (&self.value, wanted) {
            (from, to) if from == to => {}
            (Value::Object(from), Value::Object(to)) => edit(&self.root.object_value()?, from, to)?,
            (_, to) => self.root.set_value(input(to)),
        }
        let mut text = self.root.to_string();
        if self.bom {
            text.insert(0, BOM);
        }
        let result = Self::parse(&text).ok()?;
        (result.value == *wanted).then_some(text)
    }
}

/// Changes an object from one value to another, touching only the members that differ.
fn edit(object: &CstObject, from: &Map<String, Value>, to: &Map<String, Value>) -> Option<()> {
    for key in from.keys().filter(|key| !to.contains_key(*key)) {
        object.get(key)?.remove();
    }
    for (key, new) in to {
        match (from.get(key), new) {
            (Some(old), new) if old == new => {}
            (Some(Value::Object(old)), Value::Object(new)) => edit(&object.get(key)?.object_value()?, old, new)?,
            (Some(_), new) => object.get(key)?.set_value(input(new)),
            (None, new) => {
                object.append(key, input(new));
            }
        }
    }
    Some(())
}

fn input(value: &Value) -> CstInputValue {
    match value {
        Value::Null => CstInputValue::Null,
        Value::Bool(value) => CstInputValue::Bool(*value),
        Value::Number(number) => CstInputValue::Number(number.to_string()),
        Value::String(text) => CstInputValue::String(text.clone()),
        Value::Array(items) => CstInputValue::Array(items.iter().map(input).collect()),
        Value::Object(members) => {
            CstInputValue::Object(members.iter().map(|(key, value)| (key.clone(), input(value))).collect())
        }
    }
}

/// RFC 7396, section 2.
fn merge_patch(target: &mut Value, patch: &Value) {
    let Value::Object(changes) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(members) = target else { return };
    for (key, change) in changes {
        if change.is_null() {
            members.remove(key);
        } else {
            merge_patch(members.entry(key).or_insert(Value::Null), change);
        }
    }
}

/// The merged value; `Some(None)`: there should be none; `None`: both sides changed the same thing differently.
#[allow(clippy::option_option)]
fn merge_values(base: Option<&Value>, ours: Option<&Value>, theirs: Option<&Value>) -> Option<Option<Value>> {
    if ours == theirs || theirs == base {
        return Some(ours.cloned());
    }
    if ours == base {
        return Some(theirs.cloned());
    }
    let (Some(Value::Object(here)), Some(Value::Object(there))) = (ours, theirs) else { return None };
    let nothing = Map::new();
    let before = match base {
        Some(Value::Object(before)) => before,
        None => &nothing,
        Some(_) => return None,
    };
    let mut merged = Map::new();
    for key in here.keys().chain(there.keys().filter(|key| !here.contains_key(*key))) {
        if let Some(value) = merge_values(before.get(key), here.get(key), there.get(key))? {
            merged.insert(key.clone(), value);
        }
    }
    Some(Some(Value::Object(merged)))
}

/// The value of a node. Numbers that JSON does not have (`Infinity`, `NaN`) and numbers that would not come back as they are cannot be
/// edited safely, so they are refused.
fn value_of(node: &CstNode) -> Result<Value, String> {
    if let Some(object) = node.as_object() {
        let mut members = Map::new();
        for property in object.properties() {
            let name = property.decoded_name().ok_or("a name cannot be read")?;
            let value = property.value().ok_or("a member has no value")?;
            members.insert(name, value_of(&value)?);
        }
        return Ok(Value::Object(members));
    }
    if let Some(array) = node.as_array() {
        return Ok(Value::Array(array.elements().iter().map(value_of).collect::<Result<_, _>>()?));
    }
    if let Some(text) = node.as_string_lit() {
        return Ok(Value::String(text.decoded_value().map_err(|error| error.to_string())?));
    }
    if let Some(number) = node.as_number_lit() {
        let raw = number.to_string();
        return number_of(&raw).map(Value::Number).ok_or_else(|| format!("{raw} is not a number that JSON has"));
    }
    if let Some(value) = node.as_boolean_lit() {
        return Ok(Value::Bool(value.value()));
    }
    if node.as_null_keyword().is_some() {
        return Ok(Value::Null);
    }
    Err("there is something that is no JSON value".to_owned())
}

fn number_of(raw: &str) -> Option<Number> {
    let (negative, digits) = match raw.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, raw.strip_prefix('+').unwrap_or(raw)),
    };
    if let Some(hex) = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        let value = i64::from_str_radix(hex, 16).ok()?;
        return Some(Number::from(if negative { -value } else { value }));
    }
    if digits.bytes().all(|byte| byte.is_ascii_digit()) {
        // Larger whole numbers lose digits as floating point.
        return if negative {
            raw.parse::<i64>().ok().map(Number::from)
        } else {
            digits.parse::<u64>().ok().map(Number::from)
        };
    }
    Number::from_f64(raw.parse::<f64>().ok()?)
}

type Comments = HashMap<String, usize>;

/// The comments of a text with how often each is there. A text that does not parse has none.
fn comments_of(text: &str) -> Comments {
    let options = ParseOptions { allow_missing_commas: false, ..ParseOptions::default() };
    let mut comments = Comments::new();
    if let Ok(root) = CstRootNode::parse(text.strip_prefix(BOM).unwrap_or(text), &options) {
        root.children().iter().for_each(|child| collect(child, &mut comments));
    }
    comments
}

fn collect(node: &CstNode, comments: &mut Comments) {
    if let Some(comment) = node.as_comment() {
        *comments.entry(comment.raw_value().trim_end().to_owned()).or_default() += 1;
    }
    node.children().iter().for_each(|child| collect(child, comments));
}

fn contains(all: &Comments, some: &Comments) -> bool {
    some.iter().all(|(comment, count)| all.get(comment).is_some_and(|found| found >= count))
}

fn minus(all: &Comments, some: &Comments) -> Comments {
    let left = |(comment, count): (&String, &usize)| {
        let left = count.saturating_sub(some.get(comment).copied().unwrap_or(0));
        (left > 0).then(|| (comment.clone(), left))
    };
    all.iter().filter_map(left).collect()
}

#[cfg(test)]
#[path = "json_tests.rs"]
mod tests;

#[cfg(test)]
pub(super) mod judge {
    //! What fuzzing needs to know to judge a result.

    use super::*;

    /// The value of a text, as long as it is one that can be patched.
    pub(crate) fn value(text: &str) -> Option<Value> {
        deep(|| Document::parse(text).ok().map(|document| document.value)).flatten()
    }

    /// The value that a patch makes of another.
    pub(crate) fn merged(value: &Value, patch: &Value) -> Value {
        let mut merged = value.clone();
        merge_patch(&mut merged, patch);
        merged
    }

    /// Whether every comment of one text is in another.
    pub(crate) fn keeps_comments(new: &str, old: &str) -> bool {
        deep(|| contains(&comments_of(new), &comments_of(old))).unwrap_or(false)
    }
}
