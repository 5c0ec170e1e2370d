//! Reasons by which something is counted: a closed list, of which each knows the value of its metric's label. What it
//! counts is not known here.

/// Declares such a list, in the order in which it is counted and documented: `ALL` of it, and the `label` of each. Its
/// place in an array of counts is its number, `reason as usize`.
#[macro_export]
macro_rules! labelled {
    ($(#[$about:meta])* $visibility:vis enum $name:ident { $($reason:ident = $label:literal,)+ }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        $visibility enum $name {
            $(#[doc = concat!("Counted as `", $label, "`.")] $reason,)+
        }

        impl $name {
            /// All of them, in the order of their numbers.
            pub const ALL: [Self; [$($label),+].len()] = [$(Self::$reason),+];

            /// The value of its metric's label.
            pub const fn label(self) -> &'static str {
                match self {
                    $(Self::$reason => $label,)+
                }
            }
        }
    };
}
