//! What a sweep found, as JSON: `mcedge.sweep/1`.
//!
//! ```text
//! {"schema": "mcedge.sweep/1", "model": name, "place": what ran where, "input": as it was given,
//!  "tokens": in all, "sequences": run each from the start of a stream,
//!  "made": the most checkpoints that a sequence has at a time when none goes, "full": those that are 100 %, "unbounded": whether they are all,
//!  "checkpoint_bytes": of one of them,
//!  "loss": {"name": "mse" | "bits" | "errors" | "none", "meaning": in words},
//!  "without": cell, "with_all": cell, "cells": [cell, ..], "left_out": [{"policy": name, "reason": in words}, ..]}
//! ```
//!
//! A cell is one run:
//!
//! ```text
//! {"policy": name, or null without a cache and with all of it, "budgets": [as written, ..], "slots": checkpoints kept,
//!  "bytes": what they take, "relative_rms": ‖y − y∞‖ / ‖y∞‖ of its outputs y and those y∞ with all of the cache,
//!  "largest": the largest |y − y∞|, "loss": mean, or null where nothing has one,
//!  "gain": null without a loss, or {"mean": loss without the cache less this one, "error": its standard error or null,
//!                                   "certain": whether it is more than noise},
//!  "failed": null, or why the run ended early: nothing else of it is known then, and is null,
//!  "kept": its gain by that of all of the cache, or null where that is not certain, "kept_error": its standard error,
//!  "accuracy": null, or with answers [{"from": least distance or null where the token was new, "to": largest,
//!                                      "answers": count, "right": count}, ..]}
//! ```

use serde_json::{Value, json};

use super::distance::Bucket;
use super::loss::Gain;
use super::report::{Cell, Report};

/// The value of `schema`.
const SCHEMA: &str = "mcedge.sweep/1";

impl Report {
    /// As the module says.
    pub fn json(&self) -> Value {
        let left_out =
            self.left_out.iter().map(|(policy, reason)| json!({"policy": policy.name(), "reason": reason}));
        json!({
            "schema": SCHEMA, "model": self.name, "place": self.place, "input": self.input,
            "tokens": self.tokens, "sequences": self.sequences,
            "made": self.made, "full": self.full, "unbounded": self.is_unbounded(),
            "checkpoint_bytes": self.checkpoint_bytes,
            "loss": {"name": self.task.name(), "meaning": self.task.meaning()},
            "without": self.cell_json(&self.without), "with_all": self.cell_json(&self.with_all),
            "cells": self.cells.iter().map(|cell| self.cell_json(cell)).collect::<Vec<_>>(),
            "left_out": left_out.collect::<Vec<_>>(),
        })
    }

    fn cell_json(&self, cell: &Cell) -> Value {
        // Of a single stretch nobody knows the error: infinity is no JSON, and becomes null.
        let gain = |gain: Gain| json!({"mean": gain.mean, "error": gain.error, "certain": gain.is_certain()});
        let kept = self.kept(cell);
        let accuracy: Vec<Value> = cell.distances.buckets().map(bucket).collect();
        json!({
            "policy": cell.policy.map(|policy| policy.name()), "budgets": cell.budgets, "slots": cell.slots,
            "bytes": cell.slots * self.checkpoint_bytes, "failed": cell.failed,
            "relative_rms": cell.relative_rms, "largest": cell.largest, "loss": cell.loss,
            "gain": cell.gain.map(gain), "kept": kept.map(|kept| kept.part),
            "kept_error": kept.map(|kept| kept.error),
            "accuracy": (!accuracy.is_empty()).then_some(accuracy),
        })
    }
}

fn bucket(bucket: Bucket) -> Value {
    let (from, to) = bucket.distance.unzip();
    json!({"from": from, "to": to, "answers": bucket.tally.answers, "right": bucket.tally.right})
}
