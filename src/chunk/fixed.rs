//! Cuts after a fixed number of bytes: for disk images and databases, whose blocks do not move.

#[derive(Debug, Clone)]
pub(super) struct Fixed {
    len: usize,
}

impl Fixed {
    pub(super) fn new(len: u32) -> Self {
        Fixed { len: len.max(1) as usize }
    }

    pub(super) fn cut(&self, data: &[u8]) -> usize {
        data.len().min(self.len)
    }

    pub(super) fn max_len(&self) -> usize {
        self.len
    }
}

#[cfg(test)]
mod tests {
    use crate::chunk::Cutter;
    use crate::format::params::{Chunker, Params};

    #[test]
    fn data_is_cut_every_so_many_bytes() {
        let cutter = Cutter::new(&Params { chunker: Chunker::Fixed(4096), ..Params::default() });
        assert_eq!(cutter.max_len(), 4096);
        assert_eq!(
            [0, 1, 4095, 4096, 4097, 10_000].map(|len| cutter.cut(&vec![1; len])),
            [0, 1, 4095, 4096, 4096, 4096]
        );
    }
}
