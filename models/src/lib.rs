//! mcedge: models.
