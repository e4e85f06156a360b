//! Products in the tile registers of AMX: sixteen rows of x with a panel, thirty-two columns at a time.
//!
//! A register holds sixteen lines of a panel as they lie in memory, or sixteen words of as many rows of x, or the sums
//! of these rows with the panel. An instruction adds the products of a pair of columns after those of the pair before,
//! whatever the number of rows, and chunks of columns follow one another: the shape of a block never changes a result.

use std::arch::asm;
use std::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};
use std::marker::PhantomData;
use std::sync::OnceLock;

use super::{LANES, Lanes, Line, REGISTER_ROWS, SumsOfRow};

/// Bytes from the sums of a row to those of the next one.
const SUMS_STRIDE: usize = size_of::<SumsOfRow>();
/// How far ahead of its use a line is asked for, in bytes.
const BYTES_AHEAD: usize = 1024;

/// Whether the processor has tile registers that multiply bf16 and bytes, and the system lets this process use them.
pub(crate) fn is_available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| processor_has_tiles() && system_allows_tiles())
}

fn processor_has_tiles() -> bool {
    const BF16_TILES_INT8: u32 = 1 << 22 | 1 << 24 | 1 << 25;
    const OSXSAVE: u32 = 1 << 27;
    /// The state of the tile registers: their configuration and their contents.
    const TILE_STATE: u64 = 1 << 17 | 1 << 18;
    if __cpuid(0).eax < 7 || __cpuid_count(7, 0).edx & BF16_TILES_INT8 != BF16_TILES_INT8 {
        return false;
    }
    #[target_feature(enable = "xsave")]
    fn enabled_states() -> u64 {
        // SAFETY: register 0 is there wherever the instruction is.
        unsafe { _xgetbv(0) }
    }
    // SAFETY: the processor has just said that the system uses this instruction.
    __cpuid(1).ecx & OSXSAVE != 0 && unsafe { enabled_states() } & TILE_STATE == TILE_STATE
}

/// Linux gives the registers to a process that asks for them.
#[cfg(target_os = "linux")]
fn system_allows_tiles() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_int = 0x1023;
    const TILE_DATA: libc::c_ulong = 18;
    // SAFETY: it reads and writes no memory of ours.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn system_allows_tiles() -> bool {
    false
}

/// The layout of the registers, as the processor reads it.
#[repr(C, align(64))]
struct Layout {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// The tile registers of this thread, from their configuration to their release: 0 to 3 hold sums, 4 and 5 rows of x,
/// 6 and 7 lines of panels.
pub(crate) struct Tiles {
    rows: usize,
    /// Words of each row of x, and lines of a panel, that one instruction takes.
    words: usize,
    /// The registers belong to a thread.
    not_send: PhantomData<*const ()>,
}

/// What is known of sums and panels before they are used.
#[derive(Clone, Copy)]
pub(crate) struct Pass {
    /// Sums begin with zero, not with what is there.
    pub(crate) fresh: bool,
    /// Panels come from memory, not from a cache: they are asked for ahead.
    pub(crate) cold: bool,
}

/// Rows of x for one or two registers.
#[derive(Clone, Copy)]
pub(crate) struct RowBlock<'a> {
    /// From the first word of the first row to the last one of the last row.
    pub(crate) words: &'a [u32],
    /// Words from the beginning of a row to that of the next one.
    pub(crate) stride: usize,
    /// Registers: 1 or 2.
    pub(crate) count: usize,
}

impl Tiles {
    /// Lays the registers out for tiles of `rows` rows of x, of each of which an instruction takes `words` words, at most
    /// sixteen, with as many lines of a panel.
    ///
    /// # Safety
    /// The registers are [available](is_available), and this thread has no other `Tiles`.
    pub(crate) unsafe fn configure(rows: usize, words: usize) -> Self {
        let (rows, words) = (rows.clamp(1, REGISTER_ROWS), words.clamp(1, LANES));
        let mut layout = Layout {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            row_bytes: [0; 16],
            rows: [0; 16],
        };
        layout.row_bytes[..8].fill(64);
        layout.row_bytes[4..6].fill(4 * words as u16);
        layout.rows[..6].fill(rows as u8);
        layout.rows[6..8].fill(words as u8);
        // SAFETY: the instruction reads the 64 bytes of the layout, which is valid.
        unsafe { asm!("ldtilecfg [{0}]", in(reg) &raw const layout, options(nostack, readonly)) };
        Self { rows, words, not_send: PhantomData }
    }

    /// Adds the products of the rows of `x` and of `panels`, at most as many as there are sums for, to `sums`,
    /// `[row][panel]`.
    ///
    /// The number of lines of a panel is a multiple of sixteen, the same for all.
    pub(crate) fn accumulate(
        &self,
        x: RowBlock<'_>,
        panels: &[&[Line]],
        sums: &mut [SumsOfRow],
        pass: Pass,
    ) {
        let (rows, lines) = (self.rows * x.count, panels.first().map_or(0, |panel| panel.len()));
        let chunks = lines / LANES;
        assert!(chunks > 0 && matches!(x.count, 1 | 2), "no work");
        assert!(self.words == LANES, "registers for fewer words");
        assert!(x.words.len() >= (rows - 1) * x.stride + chunks * LANES, "rows end too early");
        assert!(sums.len() >= rows && panels.len() <= sums[0].len(), "no room for the sums");
        assert!(panels.iter().all(|panel| panel.len() == lines), "panels are not equal");
        let sizes = Sizes { x_stride: x.stride * 4, rows: self.rows, chunks, pass };
        let x_words = x.words.as_ptr();
        let at_once = if x.count == 1 { 4 } else { 2 };
        for (group, panels) in panels.chunks(at_once).enumerate() {
            // The last panel stands in for those after it, whose sums are not used.
            let lines = |at: usize| panels[at.min(panels.len() - 1)].as_ptr();
            let sums = sums[0][group * at_once..].as_mut_ptr();
            // SAFETY: rows, panels and sums are as long as the sizes say, as was checked above, and a row has sums
            // for whole groups of panels.
            unsafe {
                match x.count {
                    1 => one_by_four(x_words, std::array::from_fn(lines), sums, &sizes),
                    _ => two_by_two(x_words, std::array::from_fn(lines), sums, &sizes),
                }
            }
        }
    }
}

/// The products of a group of a panel: `[row]`, sixteen outputs each.
#[repr(C, align(64))]
pub(super) struct GroupProducts(pub(super) [[i32; LANES]; REGISTER_ROWS]);

impl Tiles {
    /// Multiplies a group of bytes of each row, the first at `x`, with the [`GROUP_LINES`] lines of a panel.
    ///
    /// # Safety
    /// The registers are configured for a group of bytes. Each row, `x_stride` bytes after the one before, has 32
    /// bytes, and the panel the lines of a group.
    #[inline]
    pub(super) unsafe fn multiply_group(
        &self,
        (x, x_stride): (*const u32, usize),
        panel: *const Line,
        products: &mut GroupProducts,
    ) {
        // SAFETY: the caller vouches for what is read; a register has no more rows than there are products.
        unsafe {
            asm!(
                "tileloadd tmm4, [{x} + {x_stride}*1]",
                "tilezero tmm0",
                "tileloadd tmm6, [{panel} + {line}*1]",
                "tdpbssd tmm0, tmm4, tmm6",
                "tilestored [{products} + {line}*1], tmm0",
                x = in(reg) x,
                x_stride = in(reg) x_stride,
                panel = in(reg) panel,
                line = in(reg) size_of::<Line>(),
                products = in(reg) &raw mut *products,
                options(nostack),
            );
        }
    }
}

/// Rows of f32, each the sum of two of bf16: what the second one leaves out is below 2^-17 of the value.
#[derive(Clone, Copy)]
pub(crate) struct SplitRows<'a> {
    /// From the first word of the first row to the last one of the last row.
    pub(crate) words: &'a [u32],
    /// Words from the beginning of a row to that of the next one.
    pub(crate) stride: usize,
    /// Words from the first part of a row to the second one.
    pub(crate) apart: usize,
}

/// The sums of a register of rows and [`HELD_PANELS`] panels, in the registers until this is dropped.
pub(crate) struct HeldSums<'a> {
    tiles: &'a Tiles,
    sums: &'a mut [SumsOfRow],
}

/// As many as one register of rows is multiplied with at once.
pub(crate) const HELD_PANELS: usize = 4;

impl Tiles {
    /// Brings `sums`, at least as many as there are rows, into the registers.
    pub(crate) fn hold<'a>(&'a self, sums: &'a mut [SumsOfRow]) -> HeldSums<'a> {
        assert!(sums.len() >= self.rows, "no room for the sums");
        // SAFETY: there are sums for each row of a register, and for four panels.
        unsafe {
            asm!(
                "tileloadd tmm0, [{sums} + {stride}*1]",
                "tileloadd tmm1, [{sums} + {stride}*1 + 64]",
                "tileloadd tmm2, [{sums} + {stride}*1 + 128]",
                "tileloadd tmm3, [{sums} + {stride}*1 + 192]",
                sums = in(reg) sums.as_ptr(),
                stride = in(reg) SUMS_STRIDE,
                options(nostack, readonly),
            );
        }
        HeldSums { tiles: self, sums }
    }
}

impl HeldSums<'_> {
    /// Adds the products of both parts of the rows of `x` and of `panels`, as many words and lines of each as one
    /// instruction takes.
    pub(crate) fn add(&mut self, x: SplitRows<'_>, panels: [&[Line]; HELD_PANELS]) {
        let Tiles { rows, words, .. } = *self.tiles;
        let last = (rows - 1) * x.stride + x.apart + words;
        assert!(x.words.len() >= last, "rows end too early");
        assert!(panels.iter().all(|panel| panel.len() >= words), "panels end too early");
        // SAFETY: rows and panels are as long as an instruction takes, as was checked above.
        unsafe {
            asm!(
                "tileloadd tmm4, [{x} + {x_stride}*1]",
                "tileloadd tmm5, [{second} + {x_stride}*1]",
                "tileloadd tmm6, [{panel0} + {line}*1]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{panel1} + {line}*1]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm0, tmm5, tmm6",
                "tileloadd tmm6, [{panel2} + {line}*1]",
                "tdpbf16ps tmm1, tmm5, tmm7",
                "tdpbf16ps tmm2, tmm4, tmm6",
                "tileloadd tmm7, [{panel3} + {line}*1]",
                "tdpbf16ps tmm3, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                x = in(reg) x.words.as_ptr(),
                second = in(reg) x.words.as_ptr().add(x.apart),
                x_stride = in(reg) 4 * x.stride,
                panel0 = in(reg) panels[0].as_ptr(),
                panel1 = in(reg) panels[1].as_ptr(),
                panel2 = in(reg) panels[2].as_ptr(),
                panel3 = in(reg) panels[3].as_ptr(),
                line = in(reg) size_of::<Line>(),
                options(nostack, readonly),
            );
        }
    }
}

impl Drop for HeldSums<'_> {
    fn drop(&mut self) {
        // SAFETY: there are sums for each row of a register, and for four panels.
        unsafe {
            asm!(
                "tilestored [{sums} + {stride}*1], tmm0",
                "tilestored [{sums} + {stride}*1 + 64], tmm1",
                "tilestored [{sums} + {stride}*1 + 128], tmm2",
                "tilestored [{sums} + {stride}*1 + 192], tmm3",
                sums = in(reg) self.sums.as_mut_ptr(),
                stride = in(reg) SUMS_STRIDE,
                options(nostack),
            );
        }
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: the registers are available, as they were configured.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}

struct Sizes {
    /// In bytes.
    x_stride: usize,
    /// Of one register.
    rows: usize,
    /// Sixteen lines or words each.
    chunks: usize,
    pass: Pass,
}

/// Asks for sixteen lines beginning [`BYTES_AHEAD`] of a register's.
macro_rules! prefetch {
    ($pointer:literal) => {
        concat!(
            ".irp line, 0,64,128,192,256,320,384,448,512,576,640,704,768,832,896,960\n",
            "prefetcht0 [",
            $pointer,
            " + {ahead} + \\line]\n",
            ".endr"
        )
    };
}

/// One register of rows, four panels.
///
/// # Safety
/// Rows, panels and sums are as long as the sizes say, and the registers are configured for them.
unsafe fn one_by_four(x: *const u32, panels: [*const Line; 4], sums: *mut Lanes, sizes: &Sizes) {
    // SAFETY: the caller vouches for the memory; nobody but this module uses the registers.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "test {fresh:e}, {fresh:e}",
            "jnz 2f",
            "tileloadd tmm0, [{sums} + {sums_stride}*1]",
            "tileloadd tmm1, [{sums} + {sums_stride}*1 + 64]",
            "tileloadd tmm2, [{sums} + {sums_stride}*1 + 128]",
            "tileloadd tmm3, [{sums} + {sums_stride}*1 + 192]",
            "2:",
            "tileloadd tmm4, [{x} + {x_stride}*1]",
            prefetch!("{panel0}"),
            "tileloadd tmm6, [{panel0} + {line}*1]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            prefetch!("{panel1}"),
            "tileloadd tmm7, [{panel1} + {line}*1]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            prefetch!("{panel2}"),
            "tileloadd tmm6, [{panel2} + {line}*1]",
            "tdpbf16ps tmm2, tmm4, tmm6",
            prefetch!("{panel3}"),
            "tileloadd tmm7, [{panel3} + {line}*1]",
            "tdpbf16ps tmm3, tmm4, tmm7",
            "add {x}, 64",
            "add {panel0}, 1024",
            "add {panel1}, 1024",
            "add {panel2}, 1024",
            "add {panel3}, 1024",
            "dec {chunks}",
            "jnz 2b",
            "tilestored [{sums} + {sums_stride}*1], tmm0",
            "tilestored [{sums} + {sums_stride}*1 + 64], tmm1",
            "tilestored [{sums} + {sums_stride}*1 + 128], tmm2",
            "tilestored [{sums} + {sums_stride}*1 + 192], tmm3",
            fresh = in(reg) u32::from(sizes.pass.fresh),
            sums = in(reg) sums,
            sums_stride = in(reg) SUMS_STRIDE,
            x = inout(reg) x => _,
            x_stride = in(reg) sizes.x_stride,
            panel0 = inout(reg) panels[0] => _,
            panel1 = inout(reg) panels[1] => _,
            panel2 = inout(reg) panels[2] => _,
            panel3 = inout(reg) panels[3] => _,
            line = in(reg) size_of::<Line>(),
            chunks = inout(reg) sizes.chunks => _,
            ahead = const BYTES_AHEAD,
            options(nostack),
        );
    }
}

/// Two registers of rows, two panels.
///
/// # Safety
/// As [`one_by_four`].
unsafe fn two_by_two(x: *const u32, panels: [*const Line; 2], sums: *mut Lanes, sizes: &Sizes) {
    // SAFETY: as above.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "test {fresh:e}, {fresh:e}",
            "jnz 2f",
            "tileloadd tmm0, [{sums} + {sums_stride}*1]",
            "tileloadd tmm1, [{sums} + {sums_stride}*1 + 64]",
            "tileloadd tmm2, [{sums_below} + {sums_stride}*1]",
            "tileloadd tmm3, [{sums_below} + {sums_stride}*1 + 64]",
            "2:",
            "tileloadd tmm4, [{x} + {x_stride}*1]",
            "test {cold:e}, {cold:e}",
            "jz 3f",
            prefetch!("{panel0}"),
            prefetch!("{panel1}"),
            "3:",
            "tileloadd tmm6, [{panel0} + {line}*1]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{panel1} + {line}*1]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{x_below} + {x_stride}*1]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {x}, 64",
            "add {x_below}, 64",
            "add {panel0}, 1024",
            "add {panel1}, 1024",
            "dec {chunks}",
            "jnz 2b",
            "tilestored [{sums} + {sums_stride}*1], tmm0",
            "tilestored [{sums} + {sums_stride}*1 + 64], tmm1",
            "tilestored [{sums_below} + {sums_stride}*1], tmm2",
            "tilestored [{sums_below} + {sums_stride}*1 + 64], tmm3",
            fresh = in(reg) u32::from(sizes.pass.fresh),
            cold = in(reg) u32::from(sizes.pass.cold),
            sums = in(reg) sums,
            sums_below = in(reg) sums.byte_add(sizes.rows * SUMS_STRIDE),
            sums_stride = in(reg) SUMS_STRIDE,
            x = inout(reg) x => _,
            x_below = inout(reg) x.byte_add(sizes.rows * sizes.x_stride) => _,
            x_stride = in(reg) sizes.x_stride,
            panel0 = inout(reg) panels[0] => _,
            panel1 = inout(reg) panels[1] => _,
            line = in(reg) size_of::<Line>(),
            chunks = inout(reg) sizes.chunks => _,
            ahead = const BYTES_AHEAD,
            options(nostack),
        );
    }
}
