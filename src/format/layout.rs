//! On-disk structs with field offsets that a test compares with the tables of `format-spec.md`.

/// One field of an on-disk struct: its offset and length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// Name of the field, as in the table of the specification.
    pub name: &'static str,
    /// Offset in bytes from the beginning of the struct.
    pub offset: usize,
    /// Length of the field in bytes.
    pub size: usize,
}

/// Declares a `zerocopy` struct of unaligned little-endian fields, with its constants `FIELDS` and `SIZE`.
macro_rules! on_disk {
    ($(#[$meta:meta])* pub struct $name:ident { $($(#[$fmeta:meta])* $field:ident : $ty:ty,)* }) => {
        $(#[$meta])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq,
            zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout, zerocopy::Unaligned,
        )]
        #[repr(C)]
        pub struct $name { $($(#[$fmeta])* pub $field: $ty,)* }

        impl $name {
            /// Length of the struct on disk, in bytes.
            pub const SIZE: usize = core::mem::size_of::<$name>();
            /// The fields of the struct, in the order of the specification's table.
            pub const FIELDS: &'static [$crate::format::Field] = &[
                $($crate::format::Field {
                    name: stringify!($field),
                    offset: core::mem::offset_of!($name, $field),
                    size: core::mem::size_of::<$ty>(),
                },)*
            ];

            /// Reads the struct from the beginning of `bytes`; `what` names it in the error.
            ///
            /// # Errors
            /// `Truncated` if `bytes` is shorter than [`Self::SIZE`].
            pub fn read(bytes: &[u8], what: &'static str) -> Result<Self, $crate::format::FormatError> {
                match <Self as zerocopy::FromBytes>::read_from_prefix(bytes) {
                    Ok((value, _)) => Ok(value),
                    Err(_) => Err($crate::format::FormatError::Truncated {
                        what,
                        need: Self::SIZE as u64,
                        have: bytes.len() as u64,
                    }),
                }
            }
        }
    };
}

pub(crate) use on_disk;
