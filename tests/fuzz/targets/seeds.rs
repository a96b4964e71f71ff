//! Writes the inputs of `tests/corpus` as seeds: `seeds FOLDER` makes a folder for each target below FOLDER.

use std::path::Path;

fn main() -> std::io::Result<()> {
    let folder = std::env::args_os().nth(1).expect("seeds FOLDER");
    for (target, number, input) in rsgi_fuzz::seeds() {
        let folder = Path::new(&folder).join(target);
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join(format!("case-{number:03}")), input)?;
    }
    Ok(())
}
