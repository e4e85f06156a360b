//! Charts as a picture: both axes are logarithmic, so that what grows in proportion is a straight line.

use std::error::Error;
use std::path::Path;

use plotters::prelude::*;

use crate::Chart;

/// Pixels of one chart.
const SIZE: (u32, u32) = (520, 360);
const COLOURS: [RGBColor; 2] = [RGBColor(30, 91, 168), RGBColor(200, 90, 20)];

/// Draws four charts.
pub(crate) fn draw(path: &Path, charts: &[Chart; 4]) -> Result<(), Box<dyn Error>> {
    let root = SVGBackend::new(path, (2 * SIZE.0, 2 * SIZE.1)).into_drawing_area();
    root.fill(&WHITE)?;
    for (area, chart) in root.split_evenly((2, 2)).iter().zip(charts) {
        let points = || chart.lines.iter().flat_map(crate::Line::points);
        let highest = points().map(|(_, y)| y).fold(f64::MIN, f64::max);
        let lowest = points().map(|(_, y)| y).fold(f64::MAX, f64::min);
        let first = points().map(|(x, _)| x).min().unwrap_or(1);
        let last = points().map(|(x, _)| x).max().unwrap_or(1);
        let across = (f64::from(first) * 0.9..f64::from(last) * 1.1).log_scale().base(2.0);
        let mut axes = ChartBuilder::on(area)
            .caption(chart.title, ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(60)
            .build_cartesian_2d(across, (lowest * 0.8..highest * 3.0).log_scale())?;
        axes.configure_mesh()
            .light_line_style(TRANSPARENT)
            .y_labels(6)
            .x_desc(chart.counted)
            .y_desc(chart.cost)
            .x_label_formatter(&|x| format!("{x:.0}"))
            .y_label_formatter(&|y| format!("{y:.0}"))
            .draw()?;
        for (line, colour) in chart.lines.iter().zip(COLOURS) {
            let points: Vec<_> = line.points().map(|(x, y)| (f64::from(x), y)).collect();
            axes.draw_series(LineSeries::new(points.clone(), colour.stroke_width(2)))?
                .label(line.name.as_str())
                .legend(move |(x, y)| {
                    Rectangle::new([(x, y - 1), (x + 14, y + 1)], colour.filled())
                });
            axes.draw_series(points.into_iter().map(|at| Circle::new(at, 3, colour.filled())))?;
        }
        axes.configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE)
            .draw()?;
    }
    root.present()?;
    Ok(())
}
