//! What a scene is: a background and 1 to 4 objects (shape, colour, size) at distinct places of a 3x3 arrangement, and the
//! words for each of these. Knows the cells of the 64x64 picture, not its pixels.

use super::WorldError;

/// Side of a picture in pixels.
pub const SIDE: usize = 64;
/// Side of a cell in pixels; one visual token shows one cell.
pub const CELL: usize = 8;
/// Cells along a side.
pub const CELLS: usize = SIDE / CELL;
/// Side of the box of an object in pixels: 2x2 cells.
pub const BOX: usize = 2 * CELL;
/// Most objects of a scene.
pub const MOST_OBJECTS: usize = 4;

/// Declares a plain enum with all its values in order and the word for each.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($(#[$value_meta:meta])* $value:ident $word:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$value_meta])* #[doc = $word] $value),+ }

        impl $name {
            /// Every value, in order.
            pub const ALL: [Self; [$($word),+].len()] = [$(Self::$value),+];

            /// The word for it.
            #[must_use]
            pub fn word(self) -> &'static str {
                match self { $(Self::$value => $word),+ }
            }

            /// Its position in `ALL`.
            #[must_use]
            pub fn index(self) -> usize {
                self as usize
            }
        }
    };
}
pub(super) use words;

words! {
    /// What an object is.
    Shape { Circle "circle", Square "square", Triangle "triangle", Star "star", Heart "heart", Cross "cross" }
}
words! {
    /// What colour an object has.
    Colour { Red "red", Orange "orange", Yellow "yellow", Green "green", Blue "blue", Purple "purple" }
}
words! {
    /// How large an object is: about 10 or 15 pixels across.
    Size { Small "small", Large "large" }
}
words! {
    /// What lies behind the objects.
    Background { White "white", Black "black", Gray "gray" }
}
words! {
    /// Where an object is; raster order.
    Place {
        TopLeft "top left", Top "top", TopRight "top right",
        Left "left", Center "center", Right "right",
        BottomLeft "bottom left", Bottom "bottom", BottomRight "bottom right",
    }
}

impl Shape {
    /// "stars".
    #[must_use]
    pub fn plural(self) -> &'static str {
        match self {
            Self::Circle => "circles",
            Self::Square => "squares",
            Self::Triangle => "triangles",
            Self::Star => "stars",
            Self::Heart => "hearts",
            Self::Cross => "crosses",
        }
    }
}

impl Place {
    /// The place at `row`, `column`, each 0 to 2 (larger values are taken as 2).
    #[must_use]
    pub fn at(row: usize, column: usize) -> Self {
        Self::ALL[3 * row.min(2) + column.min(2)]
    }

    /// 0 top, 1 centre, 2 bottom.
    #[must_use]
    pub fn row(self) -> usize {
        self.index() / 3
    }

    /// 0 left, 1 centre, 2 right.
    #[must_use]
    pub fn column(self) -> usize {
        self.index() % 3
    }

    /// "top", "center" or "bottom".
    #[must_use]
    pub fn row_word(self) -> &'static str {
        ["top", "center", "bottom"][self.row()]
    }

    /// "left", "center" or "right".
    #[must_use]
    pub fn column_word(self) -> &'static str {
        ["left", "center", "right"][self.column()]
    }

    /// Top left pixel of its box, (x, y).
    #[must_use]
    pub fn corner(self) -> (usize, usize) {
        (self.column() * 3 * CELL, self.row() * 3 * CELL)
    }
}

/// One object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Object {
    /// Its place; first, so that objects order by place.
    pub place: Place,
    /// Its shape.
    pub shape: Shape,
    /// Its colour.
    pub colour: Colour,
    /// Its size.
    pub size: Size,
}

/// A background and 1 to 4 objects at distinct places, kept in raster order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Scene {
    background: Background,
    objects: Vec<Object>,
}

/// What one cell of the picture shows of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patch {
    /// The object it belongs to.
    pub object: Object,
    /// Which quarter of the object: 0 top left, 1 top right, 2 bottom left, 3 bottom right.
    pub quadrant: usize,
}

/// In which order a description names the properties of an object. The key of a later look-up comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// "star"
    Shape,
    /// "star red"
    ShapeColour,
    /// "red star"
    ColourShape,
    /// "star top left"
    ShapePlace,
    /// "star red top left"
    ShapeColourPlace,
}

impl Scene {
    /// A scene of these objects, in any order.
    ///
    /// # Errors
    /// When there are not 1 to 4 objects or two share a place.
    pub fn new(background: Background, mut objects: Vec<Object>) -> Result<Self, WorldError> {
        if !(1..=MOST_OBJECTS).contains(&objects.len()) {
            return Err(WorldError::Objects(objects.len()));
        }
        objects.sort_unstable();
        if objects.windows(2).any(|pair| pair[0].place == pair[1].place) {
            return Err(WorldError::SharedPlace);
        }
        Ok(Self { background, objects })
    }

    /// What lies behind.
    #[must_use]
    pub fn background(&self) -> Background {
        self.background
    }

    /// The objects in raster order.
    #[must_use]
    pub fn objects(&self) -> &[Object] {
        &self.objects
    }

    /// What each of the 8x8 cells shows, raster order; `None` is background.
    #[must_use]
    pub fn cells(&self) -> [Option<Patch>; CELLS * CELLS] {
        let mut cells = [None; CELLS * CELLS];
        for &object in &self.objects {
            let (x, y) = object.place.corner();
            for quadrant in 0..4 {
                let cell = (y / CELL + quadrant / 2) * CELLS + x / CELL + quadrant % 2;
                cells[cell] = Some(Patch { object, quadrant });
            }
        }
        cells
    }

    /// The objects in raster order, separated by ", ": "star red, circle blue".
    #[must_use]
    pub fn describe(&self, order: Order) -> String {
        let parts: Vec<String> = self.objects.iter().map(|object| object.describe(order)).collect();
        parts.join(", ")
    }
}

impl Object {
    /// Its words in `order`.
    #[must_use]
    pub fn describe(&self, order: Order) -> String {
        let (shape, colour, place) = (self.shape.word(), self.colour.word(), self.place.word());
        match order {
            Order::Shape => shape.to_owned(),
            Order::ShapeColour => format!("{shape} {colour}"),
            Order::ColourShape => format!("{colour} {shape}"),
            Order::ShapePlace => format!("{shape} {place}"),
            Order::ShapeColourPlace => format!("{shape} {colour} {place}"),
        }
    }
}
