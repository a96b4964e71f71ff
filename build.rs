//! Writes the libpython that was linked into the run path of the binary and the tests, so that the
//! program runs with the very library it was built for and not another one of the same soname.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    pyo3_build_config::use_pyo3_cfgs();
    pyo3_build_config::add_libpython_rpath_link_args();
}
