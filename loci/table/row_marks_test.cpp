#include "loci/table/row_marks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace loci {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

TEST(RowMarks, GiveMarkedRowsOnceAndAscending) {
  RowMarks marks(200);
  EXPECT_THAT(marks.rows(), IsEmpty());
  marks.mark(std::vector<int64_t>{199, 0, 64});
  marks.mark(std::vector<int64_t>{63, 64, 127});
  EXPECT_THAT(marks.rows(), ElementsAre(0, 63, 64, 127, 199));
  EXPECT_FALSE(marks.all());
  marks.clear();
  EXPECT_THAT(marks.rows(), IsEmpty());
}

TEST(RowMarks, AllIsEveryRowUntilCleared) {
  RowMarks marks(3);
  marks.mark_all();
  marks.mark(std::vector<int64_t>{1});
  EXPECT_TRUE(marks.all());
  EXPECT_THAT(marks.rows(), ElementsAre(0, 1, 2));
  marks.clear();
  EXPECT_FALSE(marks.all());
  EXPECT_THAT(marks.rows(), IsEmpty());
}

}  // namespace
}  // namespace loci
