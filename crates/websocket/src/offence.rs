//! What a peer can do wrong once the connection is open.
//!
//! Only the peer's faults are here, each under its own name. There is no variant for a fault of ours: the decoder
//! has none to report.

use thiserror::Error;

use crate::CloseCode;

/// A breach of the protocol or of a limit. It ends the connection, with [`Offence::close_code`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Offence {
    /// A reserved bit is set, and no extension was negotiated that gives it a meaning (RFC 6455 §5.2).
    #[error("a reserved bit is set, and no extension was negotiated")]
    ReservedBits,
    /// An opcode that nothing defines: 3 to 7, 11 to 15 (RFC 6455 §5.2).
    #[error("opcode {0} is reserved")]
    ReservedOpcode(u8),
    /// A client's frame without a mask (RFC 6455 §5.1).
    #[error("a client's frame is not masked")]
    Unmasked,
    /// A server's frame with a mask (RFC 6455 §5.1).
    #[error("a server's frame is masked")]
    Masked,
    /// A control frame that is not final (RFC 6455 §5.5).
    #[error("a control frame is fragmented")]
    FragmentedControl,
    /// A control frame of more than 125 bytes (RFC 6455 §5.5).
    #[error("a control frame is longer than 125 bytes")]
    ControlTooLong,
    /// A length in more bytes than it needs (RFC 6455 §5.2: "the minimal number of bytes MUST be used").
    #[error("the length {0} is not encoded in the fewest bytes")]
    LengthNotMinimal(u64),
    /// A length of 2^63 or more (RFC 6455 §5.2: "the most significant bit MUST be 0").
    #[error("the top bit of a 64-bit length is set")]
    LengthTopBit,
    /// A continuation frame with nothing to continue (RFC 6455 §5.4).
    #[error("a continuation frame continues nothing")]
    NothingToContinue,
    /// A new message inside of an unfinished one (RFC 6455 §5.4).
    #[error("a message begins before the last one has ended")]
    Interrupted,
    /// A message of more bytes than the limit, as soon as a header says so (RFC 6455 §10.4).
    #[error("a message of {size} bytes or more exceeds the limit of {limit}")]
    TooBig {
        /// What the headers received so far claim, or what has been inflated.
        size: u64,
        /// The limit of [`crate::Limits::message`].
        limit: usize,
    },
    /// A message of more frames than the limit (RFC 6455 §10.4).
    #[error("a message in more than {limit} fragments")]
    TooManyFragments {
        /// The limit of [`crate::Limits::fragments`].
        limit: u32,
    },
    /// A compressed message that is not DEFLATE data, is cut short, or refers to what the sender must not know any
    /// more (RFC 7692 §7.2.2). It is as [`Offence::InvalidUtf8`] is: the frames are lawful, and what they carry is not
    /// what they say it is. RFC 7692 names no code; 1007 is what other servers close with.
    #[error("a compressed message is not DEFLATE data")]
    CorruptDeflate,
    /// A compressed message of more DEFLATE streams than anybody needs (RFC 7692 §7.2.3.4 allows several).
    #[error("a compressed message with more than {limit} final blocks")]
    TooManyFinalBlocks {
        /// The limit, which is fixed.
        limit: u32,
    },
    /// Text that is not UTF-8, as soon as it can no longer become so (RFC 6455 §8.1).
    #[error("a text message is not UTF-8")]
    InvalidUtf8,
    /// A close frame with a payload of one byte (RFC 6455 §5.5.1).
    #[error("a close frame has half a close code")]
    CloseCodeCutShort,
    /// A close code that must not be sent (RFC 6455 §7.4).
    #[error("close code {0} must not be sent")]
    InvalidCloseCode(u16),
    /// The reason in a close frame is not UTF-8 (RFC 6455 §5.5.1, §8.1).
    #[error("the reason for closing is not UTF-8")]
    InvalidCloseReason,
}

impl Offence {
    /// The code with which the connection is to be closed.
    #[must_use]
    pub const fn close_code(&self) -> CloseCode {
        match self {
            Self::TooBig { .. } => CloseCode::TOO_BIG,
            Self::TooManyFragments { .. } | Self::TooManyFinalBlocks { .. } => CloseCode::POLICY,
            Self::InvalidUtf8 | Self::InvalidCloseReason | Self::CorruptDeflate => CloseCode::INVALID_PAYLOAD,
            Self::ReservedBits
            | Self::ReservedOpcode(_)
            | Self::Unmasked
            | Self::Masked
            | Self::FragmentedControl
            | Self::ControlTooLong
            | Self::LengthNotMinimal(_)
            | Self::LengthTopBit
            | Self::NothingToContinue
            | Self::Interrupted
            | Self::CloseCodeCutShort
            | Self::InvalidCloseCode(_) => CloseCode::PROTOCOL_ERROR,
        }
    }
}
