//! Finds bytes that the specification calls zero and that are not zero. Readers ignore them, `check` reports them
//! (section 1).

use super::Field;
use super::params::RawParams;
use super::place::RawPlace;
use super::tree_ref::RawTreeRef;
use super::view::RawView;

/// A reserved field that is not zero, though it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotZero {
    /// Offset in bytes of the field from the beginning of the outermost struct.
    pub offset: usize,
    /// Name of the field, after the names of the structs that contain it: for example `params.reserved1`.
    pub name: String,
}

/// Returns the reserved fields that are not zero in the struct with these `fields` at the beginning of `bytes`. Fields
/// that are not within `bytes` are skipped.
pub fn not_zero(bytes: &[u8], fields: &'static [Field]) -> Vec<NotZero> {
    let mut out = Vec::new();
    fields_not_zero(bytes, fields, 0, "", &mut out);
    out
}

/// Appends the reserved fields that are not zero, with those of nested structs. The recursion is at most three deep:
/// root, view, tree.
fn fields_not_zero(bytes: &[u8], fields: &'static [Field], base: usize, prefix: &str, out: &mut Vec<NotZero>) {
    for field in fields {
        let Some(own) = bytes.get(field.offset..).and_then(|rest| rest.get(..field.size)) else { continue };
        let nested = match (field.name, field.size) {
            ("params", RawParams::SIZE) => RawParams::FIELDS,
            ("view", RawView::SIZE) => RawView::FIELDS,
            ("root" | "map", RawPlace::SIZE) if is_zero(own, RawPlace::FIELDS, "offset") => &[],
            ("root" | "map", RawPlace::SIZE) => RawPlace::FIELDS,
            (tree, RawTreeRef::SIZE) if tree.ends_with("_tree") => RawTreeRef::FIELDS,
            (name, _) => {
                if name.starts_with("reserved") && own.iter().any(|&byte| byte != 0) {
                    out.push(NotZero { offset: base.saturating_add(field.offset), name: format!("{prefix}{name}") });
                }
                continue;
            }
        };
        let (base, prefix) = (base.saturating_add(field.offset), format!("{prefix}{}.", field.name));
        fields_not_zero(own, nested, base, &prefix, out);
        // In an empty tree or an empty map the other fields are zero, too.
        let empty: &[&str] = match nested.first().map(|first| first.name) {
            None => &["copy", "clear_len", "stored_len", "raw_len", "codec", "reserved", "flags", "sum"],
            Some("table") if is_zero(own, RawTreeRef::FIELDS, "levels") => &["block", "hash"],
            _ => continue,
        };
        let all = if nested.is_empty() { RawPlace::FIELDS } else { nested };
        for field in all.iter().filter(|field| empty.contains(&field.name) && !is_zero(own, all, field.name)) {
            out.push(NotZero { offset: base.saturating_add(field.offset), name: format!("{prefix}{}", field.name) });
        }
    }
}

fn is_zero(bytes: &[u8], fields: &[Field], name: &str) -> bool {
    fields.iter().filter(|field| field.name == name).all(|field| {
        let own = bytes.get(field.offset..).and_then(|rest| rest.get(..field.size));
        own.is_none_or(|own| own.iter().all(|&byte| byte == 0))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::head::RawHeadSlot;
    use crate::format::root::{RootLogical, RootPhysical};

    fn names(bytes: &[u8], fields: &'static [Field]) -> Vec<String> {
        not_zero(bytes, fields).into_iter().map(|found| found.name).collect()
    }

    #[test]
    fn every_byte_that_should_be_zero_is_noticed_and_no_other() {
        for (fields, size) in [
            (RawHeadSlot::FIELDS, RawHeadSlot::SIZE),
            (RootLogical::FIELDS, RootLogical::SIZE),
            (RootPhysical::FIELDS, RootPhysical::SIZE),
        ] {
            assert_eq!(names(&vec![0; size], fields), [] as [&str; 0]);
            for at in 0..size {
                let mut bytes = vec![0; size];
                bytes[at] = 1;
                for found in not_zero(&bytes, fields) {
                    let last = found.name.rsplit('.').next().unwrap_or_default();
                    assert!(found.offset <= at, "{}", found.name);
                    assert!(last.starts_with("reserved") || found.name.contains('.'), "{}", found.name);
                }
            }
        }
    }

    #[test]
    fn an_empty_tree_and_an_empty_map_are_zero_throughout() {
        let mut logical = vec![0; RootLogical::SIZE];
        // Levels 1: the tree has a block and a hash.
        logical[1] = 1;
        logical[8..40].fill(9);
        assert_eq!(names(&logical, RootLogical::FIELDS), [] as [&str; 0]);
        logical[1] = 0;
        assert_eq!(names(&logical, RootLogical::FIELDS), ["view.inodes_tree.block", "view.inodes_tree.hash"]);
        let mut physical = vec![0; RootPhysical::SIZE];
        physical[33] = 1;
        assert_eq!(names(&physical, RootPhysical::FIELDS), ["map.sum"]);
        physical[0] = 1;
        assert_eq!(names(&physical, RootPhysical::FIELDS), [] as [&str; 0]);
    }

    #[test]
    fn fields_that_are_not_there_are_passed_over() {
        assert_eq!(not_zero(&[1; 100], RootLogical::FIELDS), []);
        assert_eq!(not_zero(&[], RootLogical::FIELDS), []);
    }
}
