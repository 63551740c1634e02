//! mcedge: export.
