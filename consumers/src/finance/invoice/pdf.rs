//! An invoice as a PDF of A4 pages.
//!
//! Text stands in the two faces of Helvetica that every reader of the format brings (ISO 32000-1, 9.6.2.2),
//! so nothing is embedded and one document always gives the same bytes. Their encoding has the letters of
//! western Europe: what it lacks is shown as `?`, and is whole in every other form of the invoice.

use pdf_writer::{Content, Finish, Name, Pdf, Rect, Ref, Str, TextStr};

use super::{Block, Row, Sheet, Total};

/// Lengths are in thousandths of a point.
type Length = i32;

const POINT: Length = 1_000;
const PAGE_WIDTH: Length = 595 * POINT;
const PAGE_HEIGHT: Length = 842 * POINT;
const MARGIN: Length = 48 * POINT;
/// Where text ends above the number of the page.
const BOTTOM: Length = 72 * POINT;
const LEADING: Length = 14 * POINT;

/// Where columns begin, or end where they hold numbers.
const WHAT: Length = 130 * POINT;
const QUANTITY: Length = 385 * POINT;
const PRICE: Length = 465 * POINT;
const AMOUNT: Length = PAGE_WIDTH - MARGIN;

/// A face, by its name in the pages.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Face {
    Plain,
    Bold,
}

impl Face {
    const fn name(self) -> Name<'static> {
        match self {
            Self::Plain => Name(b"F1"),
            Self::Bold => Name(b"F2"),
        }
    }
}

/// Advance widths of the printable ASCII characters of Helvetica, in thousandths of the size (Adobe's core
/// 14 font metrics). Digits, points, dashes and spaces are as wide in bold.
const WIDTHS: [Length; 95] = [
    278, 278, 355, 556, 556, 889, 667, 191, 333, 333, 389, 584, 278, 333, 278, 278, 556, 556, 556, 556, 556,
    556, 556, 556, 556, 556, 278, 278, 584, 584, 584, 556, 1015, 667, 667, 722, 722, 667, 611, 778, 722, 278,
    500, 667, 556, 833, 722, 778, 667, 778, 722, 667, 611, 722, 667, 944, 667, 667, 611, 278, 278, 278, 469,
    556, 333, 556, 556, 500, 556, 556, 278, 556, 556, 222, 222, 500, 222, 833, 556, 556, 556, 556, 333, 500,
    278, 556, 500, 722, 500, 500, 500, 334, 260, 334, 584,
];
/// Of any other character: as wide as the widest letter that is common.
const WIDTH_OTHER: Length = 778;

/// A text in the encoding of the faces.
fn encoded(text: &str) -> Vec<u8> {
    let byte = |character: char| match character {
        '\u{20}'..='\u{7e}' | '\u{a0}'..='\u{ff}' => u8::try_from(character).unwrap_or(b'?'),
        '€' => 0x80,
        '…' => 0x85,
        '‘' => 0x91,
        '’' => 0x92,
        '“' => 0x93,
        '”' => 0x94,
        '–' => 0x96,
        '—' => 0x97,
        _ => b'?',
    };
    text.chars().map(byte).collect()
}

/// How wide a text is at a size.
fn width(text: &[u8], size: Length) -> Length {
    let of = |byte: &u8| {
        let known = usize::from(*byte).checked_sub(0x20).and_then(|at| WIDTHS.get(at));
        known.copied().unwrap_or(WIDTH_OTHER)
    };
    let thousandths: Length = text.iter().map(of).fold(0, Length::saturating_add);
    thousandths.saturating_mul(size.checked_div(POINT).unwrap_or(0))
}

#[expect(clippy::float_arithmetic, reason = "the format has no other numbers; lengths, never money")]
fn points(length: Length) -> f32 {
    // Below 2^24, so exact.
    length as f32 / 1_000.0
}

/// The pages as they are filled.
struct Pages {
    done: Vec<Content>,
    page: Content,
    /// The base line of the next line.
    y: Length,
}

impl Pages {
    fn new() -> Self {
        Self { done: Vec::new(), page: Content::new(), y: PAGE_HEIGHT.saturating_sub(MARGIN) }
    }

    /// A new page, where less than this is left.
    fn keep(&mut self, height: Length) {
        if self.y.saturating_sub(height) < BOTTOM {
            let full = std::mem::replace(&mut self.page, Content::new());
            self.done.push(full);
            self.y = PAGE_HEIGHT.saturating_sub(MARGIN);
        }
    }

    fn down(&mut self, by: Length) {
        self.y = self.y.saturating_sub(by);
    }

    fn show(&mut self, x: Length, text: &[u8], (face, size): (Face, Length), grey: bool) {
        self.page.set_fill_gray(if grey { 0.4 } else { 0.0 });
        self.page.begin_text();
        self.page.set_font(face.name(), points(size));
        self.page.next_line(points(x), points(self.y));
        self.page.show(Str(text));
        self.page.end_text();
    }

    /// Text that begins at `x` and ends before `end`, cut where it is longer.
    fn left(&mut self, x: Length, end: Length, text: &str, font: (Face, Length)) {
        let mut text = encoded(text);
        let room = end.saturating_sub(x);
        if width(&text, font.1) > room {
            while !text.is_empty() && width(&text, font.1).saturating_add(font.1) > room {
                text.pop();
            }
            text.push(0x85);
        }
        self.show(x, &text, font, false);
    }

    /// A number that ends at `x`.
    fn right(&mut self, x: Length, text: &str, font: (Face, Length)) {
        let text = encoded(text);
        let x = x.saturating_sub(width(&text, font.1));
        self.show(x, &text, font, false);
    }

    /// Grey text, over as many lines as it takes.
    fn note(&mut self, x: Length, end: Length, text: &str, size: Length) {
        let mut line = String::new();
        for word in text.split_whitespace() {
            let longer = if line.is_empty() { word.to_owned() } else { format!("{line} {word}") };
            if width(&encoded(&longer), size) > end.saturating_sub(x) && !line.is_empty() {
                self.note_line(x, &line, size);
                line = word.to_owned();
            } else {
                line = longer;
            }
        }
        self.note_line(x, &line, size);
    }

    fn note_line(&mut self, x: Length, line: &str, size: Length) {
        self.keep(size);
        self.show(x, &encoded(line), (Face::Plain, size), true);
        self.down(size.saturating_add(3 * POINT));
    }

    fn rule(&mut self) {
        self.page.set_stroke_gray(0.7);
        self.page.set_line_width(0.5);
        self.page.move_to(points(MARGIN), points(self.y.saturating_add(10 * POINT)));
        self.page.line_to(points(AMOUNT), points(self.y.saturating_add(10 * POINT)));
        self.page.stroke();
    }
}

const TEXT: (Face, Length) = (Face::Plain, 9 * POINT);
const STRONG: (Face, Length) = (Face::Bold, 9 * POINT);

impl Sheet<'_> {
    /// The document, of as many pages as it takes.
    pub fn pdf(&self) -> Vec<u8> {
        let mut pages = Pages::new();
        self.head_of_pdf(&mut pages);
        columns(&mut pages);
        for block in &self.sections {
            section(&mut pages, block);
        }
        if self.sections.is_empty() {
            pages.left(MARGIN, AMOUNT, "Nothing is owed for this period.", TEXT);
            pages.down(LEADING);
        }
        pages.keep(LEADING.saturating_mul(6));
        pages.down(LEADING);
        pages.rule();
        self.totals.iter().for_each(|total| sum(&mut pages, total));
        self.provenance_of_pdf(&mut pages);
        self.bound(pages)
    }

    fn head_of_pdf(&self, pages: &mut Pages) {
        let invoice = self.invoice;
        pages.down(10 * POINT);
        pages.left(MARGIN, PRICE, &self.title, (Face::Bold, 20 * POINT));
        if let Some(stamp) = self.stamp() {
            pages.right(AMOUNT, &stamp.to_uppercase(), (Face::Bold, 12 * POINT));
        }
        pages.down(30 * POINT);
        let issued = if invoice.number == 0 { "Drawn" } else { "Issued" };
        let facts = [
            ("Customer", self.customer.clone()),
            (
                "Billing period",
                format!("{}, {} until {}", invoice.period, invoice.period_start, invoice.period_end),
            ),
            (issued, invoice.issued_at.to_string()),
            ("Currency", invoice.currency.to_string()),
        ];
        for (name, value) in facts {
            pages.show(MARGIN, &encoded(name), TEXT, true);
            pages.left(WHAT, AMOUNT, &value, TEXT);
            pages.down(LEADING);
        }
        pages.down(LEADING);
    }

    fn provenance_of_pdf(&self, pages: &mut Pages) {
        let (invoice, from) = (self.invoice, &self.invoice.provenance);
        pages.down(LEADING);
        let exact = format!(
            "The lines come to {} exactly; rounding to minor units is {}.",
            invoice.exact_total, invoice.rounding
        );
        pages.note(MARGIN, AMOUNT, &exact, 7 * POINT);
        for status in &invoice.commitments {
            let drawn = format!(
                "Contract {}: {} of {} {} drawn.",
                status.contract, status.drawn, status.amount, invoice.currency
            );
            pages.note(MARGIN, AMOUNT, &drawn, 7 * POINT);
        }
        let prices = if from.prices.is_empty() {
            String::new()
        } else {
            format!(", with prices {}", from.prices.join(", "))
        };
        let computed = format!(
            "Computed by {} from log position {}, chain {}{prices}. Whoever has the log can compute it again, byte for byte.",
            from.engine, from.position, from.chain_hash
        );
        pages.note(MARGIN, AMOUNT, &computed, 7 * POINT);
        let hash = format!("BLAKE3 of the document: {}", blake3::hash(&invoice.to_document()).to_hex());
        pages.note(MARGIN, AMOUNT, &hash, 7 * POINT);
    }

    /// Binds the pages, each with its number, into a file.
    fn bound(&self, pages: Pages) -> Vec<u8> {
        let Pages { mut done, page, .. } = pages;
        done.push(page);
        let count = done.len();
        let mut next = 0;
        let mut reference = || {
            next += 1;
            Ref::new(next)
        };
        let (catalog, tree, information) = (reference(), reference(), reference());
        let fonts = [(Face::Plain, reference(), "Helvetica"), (Face::Bold, reference(), "Helvetica-Bold")];
        let contents: Vec<(Ref, Ref, Content)> =
            done.into_iter().map(|content| (reference(), reference(), content)).collect();
        let mut pdf = Pdf::new();
        pdf.catalog(catalog).pages(tree);
        let title = format!("{}, {}, {}", self.title, self.customer, self.invoice.period);
        pdf.document_info(information).title(TextStr(&title)).producer(TextStr("Hourglass"));
        let kids = contents.iter().map(|(page, ..)| *page);
        pdf.pages(tree).kids(kids).count(i32::try_from(count).unwrap_or(i32::MAX));
        for (_, reference, base) in &fonts {
            let mut font = pdf.type1_font(*reference);
            font.base_font(Name(base.as_bytes())).encoding_predefined(Name(b"WinAnsiEncoding"));
        }
        for (number, (reference, stream, content)) in (1..).zip(contents) {
            let mut page = pdf.page(reference);
            page.media_box(Rect::new(0.0, 0.0, points(PAGE_WIDTH), points(PAGE_HEIGHT)))
                .parent(tree)
                .contents(stream);
            let mut resources = page.resources();
            let mut faces = resources.fonts();
            for (face, font, _) in &fonts {
                faces.pair(face.name(), *font);
            }
            faces.finish();
            resources.finish();
            page.finish();
            let foot = format!("{}, page {number} of {count}", self.title);
            let mut last = Pages { done: Vec::new(), page: content, y: MARGIN };
            last.show(MARGIN, &encoded(&foot), (Face::Plain, 7 * POINT), true);
            pdf.stream(stream, &last.page.finish());
        }
        pdf.finish()
    }
}

fn columns(pages: &mut Pages) {
    pages.left(MARGIN, WHAT, "Project", STRONG);
    pages.left(WHAT, QUANTITY, "What", STRONG);
    for (x, name) in [(QUANTITY, "GPU-hours"), (PRICE, "Price"), (AMOUNT, "Amount")] {
        pages.right(x, name, STRONG);
    }
    pages.down(LEADING);
    pages.rule();
}

fn section(pages: &mut Pages, block: &Block) {
    pages.keep(LEADING.saturating_mul(3));
    pages.down(LEADING.checked_div(2).unwrap_or(0));
    pages.left(MARGIN, AMOUNT, block.section.title(), STRONG);
    pages.down(LEADING);
    block.rows.iter().for_each(|row| line(pages, row));
    if let Some(subtotal) = &block.subtotal {
        pages.keep(LEADING);
        pages.left(WHAT, QUANTITY, "Subtotal", STRONG);
        pages.right(AMOUNT, subtotal, STRONG);
        pages.down(LEADING);
    }
}

/// Wide numbers grow to the left: what stands before them is cut, they never are.
fn line(pages: &mut Pages, row: &Row) {
    pages.keep(LEADING.saturating_mul(2));
    let room = QUANTITY.saturating_sub(width(&encoded(&row.quantity), TEXT.1)).saturating_sub(6 * POINT);
    pages.left(MARGIN, WHAT.saturating_sub(6 * POINT), &row.project, TEXT);
    pages.left(WHAT, room, &row.what, TEXT);
    pages.right(QUANTITY, &row.quantity, TEXT);
    pages.right(PRICE, &row.price, TEXT);
    pages.right(AMOUNT, &row.amount, TEXT);
    pages.down(LEADING);
    if !row.note.is_empty() {
        pages.y = pages.y.saturating_add(3 * POINT);
        pages.note(WHAT, PRICE, &row.note, 7 * POINT);
        pages.down(3 * POINT);
    }
}

fn sum(pages: &mut Pages, total: &Total) {
    let font = if total.strong { (Face::Bold, 11 * POINT) } else { TEXT };
    pages.left(WHAT, PRICE, &total.label, font);
    pages.right(AMOUNT, &total.amount, font);
    pages.down(LEADING.saturating_add(2 * POINT));
}
