//! The format: what is written is read, and nothing else is.
