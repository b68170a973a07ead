//! Cutting, identity, and the index that finds equal subchunks.
