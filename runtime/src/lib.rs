//! mcedge: runtime.
