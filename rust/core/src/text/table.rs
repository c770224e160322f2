//! A byte for every character, found in two steps.

const PAGE: usize = 256;
const NUM_PAGES: usize = 0x11_0000 / PAGE;

/// A page number for each 256 code points, and the distinct pages.
pub(crate) struct CharTable {
    page_of: Box<[u8; NUM_PAGES]>,
    pages: Vec<[u8; PAGE]>,
}

impl CharTable {
    /// The table of `byte_of`, which gives 0 for what is not assigned.
    pub(crate) fn build(byte_of: impl Fn(char) -> u8) -> Self {
        let mut table = Self { page_of: Box::new([0; NUM_PAGES]), pages: Vec::new() };
        for number in 0..NUM_PAGES {
            let byte = |i| char::from_u32((number * PAGE + i) as u32).map_or(0, &byte_of);
            // Between the last ideographs and the last marks nothing is assigned.
            let is_empty = (0x340..0xe00).contains(&number) || number > 0xe01;
            let page: [u8; PAGE] = if is_empty { [0; PAGE] } else { std::array::from_fn(byte) };
            let known = table.pages.iter().position(|other| *other == page);
            table.page_of[number] = known.unwrap_or_else(|| {
                table.pages.push(page);
                table.pages.len() - 1
            }) as u8;
        }
        debug_assert!(table.pages.len() <= PAGE, "page numbers fit a byte");
        table
    }

    /// The byte of a code point; of another number, 0.
    #[inline(always)]
    pub(crate) fn get(&self, code: u32) -> u8 {
        match self.page_of.get(code as usize / PAGE) {
            Some(&page) => self.pages[usize::from(page)][code as usize % PAGE],
            None => 0,
        }
    }
}
