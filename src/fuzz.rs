//! x
#![allow(dead_code, unused_imports)]
pub mod source;
mod sink;
#[derive(Debug)]
pub struct Usage(pub String);
impl std::fmt::Display for Usage { fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.write_str(&self.0) } }
impl std::error::Error for Usage {}
