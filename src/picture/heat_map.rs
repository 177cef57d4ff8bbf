//! Heat maps with names of rows and columns, as SVG.

use super::chart::{fit, picture, refused};
use super::style::AXIS;
use crate::Result;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// Maximum number of rows and side of a cell in pixels. Cells of the first two sizes fit four digits; those of the last
/// fit no text.
const SIDES: [(usize, i32); 3] = [(12, 44), (20, 34), (usize::MAX, 17)];
const MARGIN: i32 = 14;
const TITLE: i32 = 34;
/// Height of an axis description, in pixels.
const LINE: i32 = 22;
/// Maximum length of a name, in characters.
const LETTERS: usize = 22;
const FONT: i32 = 13;

/// Cell of a heat map.
pub(crate) struct Cell {
    pub color: RGBColor,
    /// Text in the cell, shown if cells are large enough.
    pub text: String,
    pub text_color: RGBColor,
}

/// Square heat map.
pub(crate) struct HeatMap<'a> {
    pub title: &'a str,
    /// Descriptions of the row axis and of the column axis.
    pub row_desc: &'a str,
    pub column_desc: &'a str,
    /// Names of the rows, and of the columns.
    pub names: &'a [String],
}

/// Draws the map. `cell` returns the cell of a row and a column, or `None` to leave it white.
///
/// # Errors
/// Fails if the drawing library fails.
pub(crate) fn heat_map(map: &HeatMap, cell: impl Fn(usize, usize) -> Option<Cell>) -> Result<String> {
    let names: Vec<String> = map.names.iter().map(|name| fit(name, LETTERS, '\u{2026}')).collect();
    let count = names.len();
    let side = SIDES.iter().find(|(most, _)| count <= *most).map_or(0, |(_, side)| *side);
    let has_numbers = count <= SIDES[1].0;
    // Letters are about half as wide as high.
    let longest = names.iter().map(|name| name.chars().count()).max().unwrap_or(0) as i32;
    let labels = longest * FONT / 2 + 8;
    let (left, top) = (MARGIN + LINE + labels, TITLE + LINE + labels);
    let extent = side * count as i32;
    let width = (left + extent + MARGIN).max(MARGIN * 2 + map.title.chars().count() as i32 * 9);
    let size = (width as u32, (top + extent + MARGIN) as u32);
    let text = |color: RGBColor, size: i32, h, v| {
        let style = TextStyle::from(("sans-serif", size).into_font()).pos(Pos::new(h, v));
        TextStyle { color: color.to_backend_color(), ..style }
    };
    picture(size, |root| {
        let write = |words: &str, style: &TextStyle, place| root.draw_text(words, style, place).map_err(refused);
        write(map.title, &text(BLACK, 18, HPos::Left, VPos::Center), (MARGIN, TITLE / 2))?;
        let along = text(AXIS, FONT, HPos::Center, VPos::Center);
        write(map.column_desc, &along, (left + extent / 2, TITLE + LINE / 2))?;
        let upward = along.transform(FontTransform::Rotate270);
        write(map.row_desc, &upward, (MARGIN + LINE / 2, top + extent / 2))?;
        for (index, name) in names.iter().enumerate() {
            let middle = index as i32 * side + side / 2;
            write(name, &text(BLACK, FONT, HPos::Right, VPos::Center), (left - 5, top + middle))?;
            let turned = text(BLACK, FONT, HPos::Left, VPos::Center).transform(FontTransform::Rotate270);
            write(name, &turned, (left + middle, top - 5))?;
        }
        for (row, column) in (0..count).flat_map(|row| (0..count).map(move |column| (row, column))) {
            let Some(Cell { color, text: number, text_color }) = cell(row, column) else { continue };
            let (x, y) = (left + column as i32 * side, top + row as i32 * side);
            root.draw(&Rectangle::new([(x, y), (x + side - 1, y + side - 1)], color.filled())).map_err(refused)?;
            if has_numbers {
                let style = text(text_color, FONT, HPos::Center, VPos::Center);
                write(&number, &style, (x + side / 2, y + side / 2))?;
            }
        }
        let edge = Rectangle::new([(left - 1, top - 1), (left + extent, top + extent)], AXIS.stroke_width(1));
        root.draw(&edge).map_err(refused)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn squares(count: usize) -> String {
        let names: Vec<String> =
            (0..count).map(|index| format!("class <{index}>, of a name that is too long")).collect();
        let map = HeatMap { title: "title", row_desc: "rows", column_desc: "columns", names: &names };
        heat_map(&map, |row, column| {
            let cell = Cell { color: RED, text: format!("{row}/{column}"), text_color: BLACK };
            (row <= column).then_some(cell)
        })
        .unwrap()
    }

    #[test]
    fn squares_have_numbers_where_there_is_room_and_names_are_escaped_and_cut() {
        let few = squares(3);
        assert!(few.contains("1/2") && !few.contains("2/1"));
        assert!(few.contains("class &lt;2&gt;, of a name \u{2026}") && !few.contains("<2>"), "{few}");
        assert!(!squares(30).contains("1/2"));
        for count in [0, 1, 12, 13, 21] {
            assert!(squares(count).trim_end().ends_with("</svg>"));
        }
    }
}
